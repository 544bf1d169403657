"""Callbacks that record the rounds of a run in a file or with a tracking tool."""

import json
from pathlib import Path
from typing import Any

from fedhello.formatting import write_csv
from fedhello.notes import logger
from fedhello.runs.callbacks import Callback
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.summary import Summary
from fedhello.runs.tracking import Tracker, check_installed, round_metrics
from fedhello.session import Session
from fedhello.state import RunState


class JsonLinesFile(Callback):
    """Writes the numbers of each round as one JSON object per line, with the names that tracking tools see.

    For a resumed run, the lines of its earlier rounds are kept.

    Args:
        path: Of the file.

    Example:
        >>> _ = fh.run("my.yaml", callbacks=[fh.JsonLinesFile("rounds.jsonl")])
        >>> len(Path("rounds.jsonl").read_text().splitlines())
        2
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, Any]] = []

    def on_start(self, session: Session, start: RunStart) -> None:
        """Write the file with the rounds of earlier processes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = [_row(record) for record in start.records if record.report.failed is None]
        self._write_all()

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Append a line, unless the attempt failed."""
        if record.report.failed is None:
            self._rows.append(_row(record))
            self._add(self._rows[-1])

    def _write_all(self) -> None:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self._rows), encoding="utf-8")

    def _add(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class CsvFile(JsonLinesFile):
    """Writes the numbers of each round as one line of CSV; a new column is empty in earlier lines.

    Args:
        path: Of the file.

    Example:
        >>> _ = fh.run("my.yaml", callbacks=[fh.CsvFile("rounds.csv")])
        >>> Path("rounds.csv").read_text().partition(",")[0]
        'round'
    """

    def _write_all(self) -> None:
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        with self.path.open("w", encoding="utf-8", newline="") as file:
            write_csv(file, self._columns, self._rows, end="\r\n")

    def _add(self, row: dict[str, Any]) -> None:
        if not row.keys() <= set(self._columns):
            self._write_all()
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            write_csv(file, self._columns, [row], header=False, end="\r\n")


def _row(record: RoundRecord) -> dict[str, Any]:
    return {"round": record.report.round + 1, **round_metrics(record)}


class _Tool(Callback):
    """Records a run with a tracking tool; see ``fedhello.runs.tracking``."""

    name = ""

    def __init__(self, folder: str | Path) -> None:
        check_installed([self.name])
        self._tracker = Tracker([self.name], Path(folder), logger.warning)

    def on_start(self, session: Session, start: RunStart) -> None:
        """Open the tool, and log where it shows the run."""
        for line in self._tracker.open(session.config):
            logger.info(line)
        self._tracker.on_start(session, start)

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Record the round."""
        self._tracker.on_round(state, record)

    def on_end(self, summary: Summary) -> None:
        """Record the summary and close the tool."""
        self._tracker.on_end(summary)


class TensorBoard(_Tool):
    """Writes event files into ``folder/tensorboard``.

    Args:
        folder: The parent folder of the event files.

    Raises:
        MissingExtraError: If TensorBoard is not installed.

    Example:
        >>> fh.run("my.yaml", {"run.name": "mine"}, callbacks=[fh.TensorBoard("runs/mine")])  # doctest: +SKIP
    """

    name = "tensorboard"


class WandB(_Tool):
    """Reports to Weights & Biases, configured by its own environment variables; its files go to ``folder/wandb``.

    Args:
        folder: Where its files go.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> fh.run("my.yaml", {"run.name": "mine"}, callbacks=[fh.WandB("runs/mine")])  # doctest: +SKIP
    """

    name = "wandb"


class MLflow(_Tool):
    """Reports to the MLflow server at ``MLFLOW_TRACKING_URI``, else to a database in ``folder/mlruns``.

    Args:
        folder: Where its files go.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> fh.run("my.yaml", {"run.name": "mine"}, callbacks=[fh.MLflow("runs/mine")])  # doctest: +SKIP
    """

    name = "mlflow"
