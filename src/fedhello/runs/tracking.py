"""Tracking sinks: tools that show the rounds of a run in addition to ``rounds.jsonl``.

A sink is made by one function, which takes the run's folder and the resolved configuration, opens its tool and returns
a ``Sink``. The tools are optional; each is installed by the extra of its name.
"""

import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhello.errors import MissingExtraError
from fedhello.formatting import flatten
from fedhello.runs.callbacks import Callback
from fedhello.runs.formats import write_evaluation, write_round
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.summary import Summary
from fedhello.session import Session
from fedhello.state import RunState

PER_BLOCK = ("contributors", "scores")
"""The lists of a round with one number per block; of any other list the length is recorded."""

MLFLOW_BATCH = 100
"""The most parameters that MLflow accepts at once."""

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

WANDB_PATIENCE = 120.0
"""Seconds that the end of a run waits for Weights & Biases to upload the rest."""

LONGEST_REASON = 300
"""The most characters of a tool's own message in a warning."""


@dataclass(frozen=True)
class Sink:
    """An open tracking tool.

    Attributes:
        place: Where the user finds the run.
        record: Takes the number of finished rounds, 0 before training, and the metrics by name.
        finish: Takes the summary and closes the tool.
    """

    place: str
    record: Callable[[int, Mapping[str, float]], None]
    finish: Callable[[Summary], None]


def tensorboard(folder: Path, config: Mapping[str, Any]) -> Sink:
    """Write event files into ``RUN/tensorboard``."""
    from torch.utils.tensorboard import SummaryWriter

    place = str(folder / "tensorboard")
    writer = SummaryWriter(place)
    writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")

    def record(done: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, done)
        writer.flush()

    def finish(summary: Summary) -> None:
        writer.add_text("summary", f"```\n{json.dumps(summary.to_dict(), indent=2)}\n```")
        settings = {name: value for name, value in flatten(config, ".").items() if value is not None}
        writer.add_hparams(settings, headline(summary), run_name=".")
        writer.close()

    return Sink(place, record, finish)


def wandb(folder: Path, config: Mapping[str, Any]) -> Sink:
    """Report to Weights & Biases, configured by its own environment variables, with its files in ``RUN/wandb``."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no error reports to third parties
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "fedhello",
        name=folder.name,
        dir=str(folder),
        config=dict(config),
        reinit="create_new",  # several runs may share a process, and an earlier one may be unfinished
        settings=wandb.Settings(
            console="off",  # the live display is not a log
            silent=True,  # it would write to standard output, which is reserved for the summary with --json
            finish_timeout=WANDB_PATIENCE,  # otherwise a lost network would block the end of the run
            finish_timeout_raises=True,
        ),
    )

    def record(done: int, metrics: Mapping[str, float]) -> None:
        run.log(dict(metrics), step=done)

    def finish(summary: Summary) -> None:
        run.summary.update({"summary": summary.to_dict()})  # other keys would hide the last round's metrics
        run.finish(exit_code=0 if summary.status in ("finished", "stopped") else 1)

    return Sink(run.url or str(folder / "wandb"), record, finish)


def mlflow(folder: Path, config: Mapping[str, Any]) -> Sink:
    """Report to the MLflow server or store at ``MLFLOW_TRACKING_URI``, else to a database in ``RUN/mlruns``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # importing it sends telemetry otherwise
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs the creation of its tables
    store, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not store:
        local = (folder / "mlruns").resolve()
        local.mkdir(exist_ok=True)
        store, artifacts = f"sqlite:///{local / 'mlflow.db'}", (local / "artifacts").as_uri()
    # The fluent interface keeps the store for the whole process, also for the next run.
    client = MlflowClient(tracking_uri=store)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fedhello"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name, artifact_location=artifacts)
    run = client.create_run(experiment, run_name=folder.name).info.run_id
    settings = [Param(key, str(value)) for key, value in flatten(config, ".").items()]
    for first in range(0, len(settings), MLFLOW_BATCH):
        client.log_batch(run, params=settings[first : first + MLFLOW_BATCH])

    def record(done: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(key, value, now, done) for key, value in metrics.items()])

    def finish(summary: Summary) -> None:
        record(0, headline(summary))
        client.set_terminated(run, MLFLOW_STATUS[summary.status])
        client.log_dict(run, summary.to_dict(), "summary.json")

    return Sink(store, record, finish)


SINKS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
"""The tools by their names in ``run.track``, which are also the names of their packages and extras."""


def check_installed(names: Sequence[str]) -> None:
    """Check that the package of every tool in ``run.track`` is installed, without importing it.

    Raises:
        MissingExtraError: If one is not.
    """
    for name in names:
        spec = importlib.util.find_spec(name) if name in SINKS else None
        # A folder of that name in the working directory, such as ``wandb``, is also found, but has no origin.
        if name in SINKS and (spec is None or spec.origin is None):
            raise MissingExtraError(
                f"run.track names {name}, which is not installed; run: pip install 'fedhello[{name}]'"
            )


def numbers(value: Mapping[str, Any]) -> dict[str, float]:
    """Return only the numbers of ``flatten``; true is 1 and false 0."""
    return {name: float(leaf) for name, leaf in flatten(value).items() if isinstance(leaf, (int, float))}


def headline(summary: Summary) -> dict[str, float]:
    """Return the numbers of a summary that concern the whole run, not a single tier."""
    whole = {name: value for name, value in summary.to_dict().items() if not isinstance(value, (Mapping, list, tuple))}
    return numbers({"summary": whole})


def round_metrics(result: RoundRecord) -> dict[str, float]:
    """Return the numbers of a round by name, as in ``rounds.jsonl``.

    Of the clients' metrics, the mean and the maximum over the clients are returned; their bytes and samples are summed.
    """
    entry = write_round(result)
    del entry["format"], entry["round"]
    clients = entry.pop("clients")
    totals = {name: sum(client[name] for client in clients) for name in ("bytes_up", "bytes_down", "samples")}
    measured = {name: [c["metrics"][name] for c in clients if name in c["metrics"]] for name in _metric_names(clients)}
    spread = {name: {"mean": sum(values) / len(values), "largest": max(values)} for name, values in measured.items()}
    plain = {
        name: len(value) if isinstance(value, (list, tuple)) and name not in PER_BLOCK else value
        for name, value in entry.items()
    }
    return numbers(plain | totals | {"clients": {"count": len(clients)} | spread})


def _metric_names(clients: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for client in clients for name in client["metrics"]})


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return a text without credentials in URLs and without secret values of environment variables.

    Example:
        >>> without_secrets("no answer from http://me:hunter2@host/ with key 123456", {"WANDB_API_KEY": "123456"})
        'no answer from http://…@host/ with key …'
    """
    text = re.sub(r"(?<=://)[^/\s]+@", "…@", text)
    for name, value in environment.items():
        if len(value) >= 4 and re.search("KEY|TOKEN|SECRET|PASSWORD", name, re.IGNORECASE):
            text = text.replace(value, "…")
    return text


class Tracker(Callback):
    """Records a run in its sinks. A sink that fails is dropped with one warning, and the run continues."""

    def __init__(self, names: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
        self._names = [name for name in names if name in SINKS]
        self._folder = folder
        self._say = say
        self._sinks: dict[str, Sink] = {}

    def open(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Open the sinks with a configuration, and return a line on each sink's place."""
        for name in self._names:
            with self._guard(name):
                self._sinks[name] = SINKS[name](self._folder, config)
        return tuple(
            f"tracking with {name}: {without_secrets(sink.place, os.environ)}" for name, sink in self._sinks.items()
        )

    def on_start(self, session: Session, start: RunStart) -> None:
        """Record the scores before training, unless an earlier process recorded them."""
        if start.state.round:
            return
        scores = {"validation": write_evaluation(start.validation), "test": write_evaluation(start.test)}
        self._record(start.state.round, numbers(scores))

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Record a round, unless the attempt failed."""
        if self._sinks and record.report.failed is None:
            self._record(record.report.round + 1, round_metrics(record))

    def on_end(self, summary: Summary) -> None:
        """Record the summary and close the sinks."""
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                sink.finish(summary)

    def _record(self, done: int, metrics: Mapping[str, float]) -> None:
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                sink.record(done, metrics)

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # no failure of a tool may end the run
            self._sinks.pop(name, None)
            reason = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()), os.environ)
            self._say(
                f"tracking with {name} failed and has stopped; the run continues, and rounds.jsonl holds every round. "
                f"{reason[:LONGEST_REASON]}"
            )
