"""Callbacks that record the rounds of a run: into a file, or with a tracking tool."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fedhello.notes import logger
from fedhello.runs.callbacks import Callback
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.tracking import Tracker, check_installed, round_metrics
from fedhello.session import Session
from fedhello.types import RunState


class _File(Callback):
    """Writes one line per round that counts into a file, which is made anew where a run begins and grows otherwise."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def on_start(self, session: Session, start: RunStart) -> None:
        """Open the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a" if start.state.round else "w", encoding="utf-8", newline="")

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Write a line."""
        if self._file is not None and record.report.failed is None:
            self._write(self._file, {"round": record.report.round + 1, **round_metrics(record)})
            self._file.flush()

    def on_end(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, file: IO[str], row: Mapping[str, float]) -> None:
        raise NotImplementedError


class JsonLinesFile(_File):
    """Writes the numbers of each round as one JSON object per line, with the names that tracking tools see.

    Args:
        path: Of the file.
    """

    def _write(self, file: IO[str], row: Mapping[str, float]) -> None:
        file.write(json.dumps(row) + "\n")


class CsvFile(_File):
    """Writes the numbers of each round as one line of CSV; the first round, or the file, decides on the columns.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._columns: list[str] = []

    def on_start(self, session: Session, start: RunStart) -> None:
        """Open the file; of one that is there already, the columns stay."""
        if start.state.round and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                self._columns = next(csv.reader(file), [])
        super().on_start(session, start)

    def _write(self, file: IO[str], row: Mapping[str, float]) -> None:
        writer = csv.writer(file)
        if not self._columns:
            self._columns = list(row)
            writer.writerow(self._columns)
        writer.writerow([row.get(name, "") for name in self._columns])


class _Tool(Callback):
    """Hands a run to a tracking tool; see ``fedhello.runs.tracking``."""

    name = ""

    def __init__(self, folder: str | Path) -> None:
        check_installed([self.name])
        self._tracker = Tracker([self.name], Path(folder), logger.warning)

    def on_start(self, session: Session, start: RunStart) -> None:
        """Open the tool; where it shows the run is logged."""
        for line in self._tracker.open(session.config):
            logger.info(line)
        self._tracker.on_start(session, start)

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Hand the round on."""
        self._tracker.on_round(state, record)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Hand the summary on and close the tool."""
        self._tracker.on_end(summary)


class TensorBoard(_Tool):
    """Writes event files into ``folder/tensorboard``.

    Args:
        folder: Where to.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """

    name = "tensorboard"


class WandB(_Tool):
    """Reports to Weights & Biases, whose own environment variables say where; its files go to ``folder/wandb``.

    Args:
        folder: Where its files go.

    Raises:
        MissingExtraError: If it is not installed.
    """

    name = "wandb"


class MLflow(_Tool):
    """Reports to the MLflow server at ``MLFLOW_TRACKING_URI``, else to a database in ``folder/mlruns``.

    Args:
        folder: Where its files go.

    Raises:
        MissingExtraError: If it is not installed.
    """

    name = "mlflow"
