"""What a run's folder says, added up for its page; of rounds only what is new is read.

Everything is kept per round, per client, per tier and per reason, never per client and round, so that a thousand
clients over hundreds of rounds stay small. ``participation`` alone has an entry for each client and round, of few.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.report.plan_file import NAME as PLAN
from fedhello.report.plan_file import read_plan
from fedhello.results.overview import written_config
from fedhello.runs.confusion import NAME as CONFUSION
from fedhello.runs.confusion import Confusion, read_confusion
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import read_evaluation, read_head, read_round
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary
from fedhello.session import ClientEntry
from fedhello.state import ClientReport
from fedhello.types import Rejection

FEW_CLIENTS = 60
"""Up to so many clients, it is kept who took part in which round."""

SECTIONS = ("model", "method", "train", "privacy", "run")
"""Sections of a configuration that are read here; one may be missing."""

PEAKS = ("predicted_peak_bytes", "predicted_memory_bytes", "peak_bytes", "process_bytes")
"""Metrics of clients of which the largest counts."""


@dataclass(frozen=True)
class RoundFacts:
    """A committed round in numbers.

    Attributes:
        number: Its number, from 1.
        test: Scores on the test data; None if it was not scored.
        validation: Scores on the validation data; likewise.
        train_loss: The clients' mean training loss.
        seconds: Seconds without evaluation.
        evaluation_seconds: Seconds of evaluation.
        bytes_up: Bytes that clients sent in it, failed attempts before it included.
        bytes_down: Bytes that they received.
        contributors: Per block, how many clients trained it.
        clients: Number of clients whose update counts.
        rejected: Number of replies that do not count.
        scored: Whether Fisher scores were computed.
    """

    number: int
    test: Evaluation | None
    validation: Evaluation | None
    train_loss: float | None
    seconds: float
    evaluation_seconds: float
    bytes_up: int
    bytes_down: int
    contributors: tuple[int, ...]
    clients: int
    rejected: int
    scored: bool


@dataclass
class Tally:
    """What the replies of a client, or of all clients of a tier, add up to.

    Attributes:
        participations: Number of updates that counted.
        rejections: Reason → number of replies that did not count.
        seconds: Seconds of training.
        bytes_up: Bytes sent.
        bytes_down: Bytes received.
        over_budget: How often the memory budget was exceeded.
        peaks: Metric → its largest value, see ``PEAKS``.
        blocks: Per block, how often it was trained.
        loss: The training loss of the last update.
    """

    participations: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    over_budget: int = 0
    peaks: dict[str, float] = field(default_factory=dict)
    blocks: Counter[int] = field(default_factory=Counter)
    loss: float | None = None

    def add(self, report: ClientReport) -> None:
        """Count an update."""
        self.participations += 1
        self.seconds += report.metrics.get("seconds", 0.0)
        self.bytes_up += report.bytes_up
        self.bytes_down += report.bytes_down
        self.loss = report.metrics.get("loss", self.loss)
        self.blocks.update(report.blocks)
        for name in PEAKS:
            if name in report.metrics:
                self.peaks[name] = max(self.peaks.get(name, 0.0), report.metrics[name])

    def refuse(self, rejection: Rejection) -> None:
        """Count a reply that does not count."""
        self.rejections[rejection.reason] += 1
        self.bytes_up += rejection.bytes_up
        self.bytes_down += rejection.bytes_down


class RunFacts:
    """The facts of a run, from its folder.

    Args:
        folder: The folder.

    Attributes:
        config: The configuration as written in ``config.yaml``.
        config_text: The text of that file.
        entries: The clients, in ascending id.
        histogram: Samples of each client by class, shape (K, C), and the classes' names; None if they are not known.
        plan: The content of ``plan.json``; None without.
        summary: The summary; None if the run has not ended.
        confusion: The confusion matrices; None without.
        rounds: The committed rounds.
        clients: Id → what its replies add up to.
        tiers: Index → what those of its clients add up to.
        reasons: Reason → an example: client, round from 1, and the sentence.
        failed: The failed attempts: round from 1, and why.
        heads: Each change of the head with the number of rounds before it.
        participation: (client, round from 1) → number of trained blocks; empty with more than ``FEW_CLIENTS`` clients.
        flags: What was done otherwise than asked, each once.
        selected: Number of rounds after which the selected model was reached; None without selection.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.config: Mapping[str, Any] = {}
        self.config_text = ""
        self.entries: tuple[ClientEntry, ...] = ()
        self.histogram: tuple[np.ndarray, tuple[str, ...]] | None = None
        self.plan: dict[str, Any] | None = None
        self.summary: Summary | None = None
        self.confusion: Confusion | None = None
        self._tier_of: dict[int, int] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._forget_rounds()

    def _forget_rounds(self) -> None:
        self._offset, self._inode, self._lines = 0, 0, 0
        self.rounds: list[RoundFacts] = []
        self.clients: defaultdict[int, Tally] = defaultdict(Tally)
        self.tiers: defaultdict[int, Tally] = defaultdict(Tally)
        self.reasons: dict[str, tuple[int, int, str]] = {}
        self.failed: list[tuple[int, str]] = []
        self.heads: list[tuple[int, HeadChange]] = []
        self.participation: dict[tuple[int, int], int] = {}
        self.flags: dict[str, None] = {}
        self.selected: int | None = None
        self._pending = [0, 0, 0]

    def refresh(self) -> bool:
        """Read what is new, and return whether there was anything.

        Raises:
            RunFolderError: If this is not the folder of a run, or a file is not valid.
        """
        self.folder.check()
        files = {
            "config.yaml": self._read_config,
            self.folder.clients_file.name: self._read_clients,
            PLAN: self._read_plan,
            "summary.json": self._read_summary,
            CONFUSION: self._read_confusion,
        }
        new = [self._if_new(name, read) for name, read in files.items()]
        return any([*new, self._read_rounds()])

    def _if_new(self, name: str, read: Callable[[], None]) -> bool:
        """Read a file if it has changed, or has gone."""
        stamp = _stamp(self.folder.path / name)
        if stamp == self._seen.get(name, (0, 0, 0)):
            return False
        self._seen[name] = stamp
        read()
        return True

    def _read_config(self) -> None:
        file = self.folder.path / "config.yaml"
        try:
            self.config_text = file.read_text(encoding="utf-8")
            found = written_config(self.config_text)
        except (OSError, ValueError) as error:
            raise RunFolderError(f"expected the configuration of a run in {file}; {error}") from error
        wrong = next((name for name in SECTIONS if not isinstance(_section(found, name), dict)), None)
        if wrong is not None:
            raise RunFolderError(
                f"expected the configuration of a run in {file}, with keys and values in {wrong}; found "
                f"{_section(found, wrong)!r:.60}. Restore the file from a copy."
            )
        self.config = found

    def _read_clients(self) -> None:
        self.entries = self.folder.clients()
        self._tier_of = {one.client: one.tier for one in self.entries}
        self.histogram = _histogram(self.entries)

    def _read_plan(self) -> None:
        self.plan = read_plan(self.folder)

    def _read_confusion(self) -> None:
        self.confusion = read_confusion(self.folder.path)

    def _read_summary(self) -> None:
        self.summary = self.folder.summary() if (self.folder.path / "summary.json").is_file() else None

    def _read_rounds(self) -> bool:
        """Read the new lines; all of them again if the file was cut, as when a run is resumed."""
        file = self.folder.path / "rounds.jsonl"
        if not file.is_file():
            return False
        try:
            found = file.stat()
            again = found.st_ino != self._inode or found.st_size < self._offset
            if again:
                had = self._lines
                self._forget_rounds()
                self._inode = found.st_ino
            with file.open("rb") as opened:
                opened.seek(self._offset)
                new = self._add_lines(opened, file)
        except OSError as error:
            raise RunFolderError(f"expected the rounds of a run in {file}; {error.strerror or error}") from error
        return new or (again and had > 0)

    def _add_lines(self, opened: BinaryIO, file: Path) -> bool:
        """Add the complete lines; the last one may still be written."""
        before = self._lines
        while (line := opened.readline()).endswith(b"\n"):
            self._lines += 1
            self._offset += len(line)
            self._add(read_round(line.decode(errors="replace"), f"{file}, line {self._lines}"))
        return self._lines > before

    def _add(self, record: RoundRecord) -> None:
        report, number = record.report, record.report.round + 1
        for rejection in report.rejections:
            self.clients[rejection.client].refuse(rejection)
            self.tiers[self.tier_of(rejection.client)].refuse(rejection)
            self.reasons.setdefault(rejection.reason, (rejection.client, number, rejection.detail))
        sent: tuple[ClientReport | Rejection, ...] = (*report.clients, *report.rejections)
        self._pending[0] += report.score_bytes_up + sum(one.bytes_up for one in sent)
        self._pending[1] += report.score_bytes_down + sum(one.bytes_down for one in sent)
        self._pending[2] += len(report.rejections)
        if report.failed is not None:
            self.failed.append((number, report.failed))
            return
        self._add_committed(record, number)

    def _add_committed(self, record: RoundRecord, number: int) -> None:
        report = record.report
        for client in report.clients:
            self.clients[client.client].add(client)
            self.tiers[client.tier].add(client)
            if len(self.entries) <= FEW_CLIENTS:
                self.participation[client.client, number] = len(client.blocks)
        for k in report.over_budget:
            self.clients[k].over_budget += 1
            self.tiers[self.tier_of(k)].over_budget += 1
        self.flags.update(dict.fromkeys(report.flags))
        self.selected = record.selected
        up, down, rejected = self._pending
        self._pending = [0, 0, 0]
        if record.head is not None:
            self.heads.append((number, record.head))
            up, down = up + record.head.bytes_up, down + record.head.bytes_down
        self.rounds.append(
            RoundFacts(
                number=number,
                test=record.test,
                validation=record.validation,
                train_loss=record.train_loss,
                seconds=record.seconds,
                evaluation_seconds=record.evaluation_seconds,
                bytes_up=up,
                bytes_down=down,
                contributors=report.contributors,
                clients=len(report.clients),
                rejected=rejected,
                scored=report.scored,
            )
        )

    def tier_of(self, client: int) -> int:
        """Return the index of a client's tier; 0 if the client is not known."""
        return self._tier_of.get(client, 0)

    @property
    def start(self) -> Evaluation | None:
        """The test scores before training; None if they are not known."""
        if self.summary is not None:
            return self.summary.start_scores
        return None if self.plan is None else read_evaluation(self.plan["start"]["test"])

    @property
    def start_accuracy(self) -> float | None:
        """The test accuracy before training; None if it is not known."""
        if self.summary is not None:
            return self.summary.start
        return None if self.start is None else self.start.accuracy

    @property
    def first_head(self) -> HeadChange | None:
        """How the head came about before the first round; None if it was not solved."""
        if self.plan is not None:
            found = self.plan["start"].get("head")
            return None if found is None else read_head(found)
        if self.summary is None or self.summary.head is None or not self.summary.head.changes:
            return None
        return self.summary.head.changes[0] if len(self.summary.head.changes) > len(self.heads) else None

    @property
    def is_private(self) -> bool:
        """Whether the run is under differential privacy."""
        return (self.config.get("privacy") or {}).get("epsilon") is not None

    @property
    def is_personal(self) -> bool:
        """Whether clients keep their own heads."""
        return (self.config.get("model") or {}).get("head") == "local"

    @property
    def is_given(self) -> bool:
        """Whether the run starts from an existing adapter (``model.adapter``), whose blocks were trained before."""
        return (self.config.get("model") or {}).get("adapter") is not None

    @property
    def metric(self) -> str:
        """What the accuracies are of."""
        if self.summary is not None:
            return self.summary.metric
        return "test accuracy" if self.plan is None else str(self.plan.get("metric", "test accuracy"))

    @property
    def budgets(self) -> list[dict[str, float]]:
        """The limits of each tier, by name."""
        if self.plan is not None:
            return [dict(tier["budget"]) for tier in self.plan["tiers"]]
        return [] if self.summary is None else [dict(tier.budget) for tier in self.summary.tiers]


def _histogram(entries: Sequence[ClientEntry]) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return the number of samples of each class at each client, shape (K, C), and the classes' names.

    None if clients say no classes, as under differential privacy, or which they have but not how many samples of each.
    """
    names = tuple(dict.fromkeys(name for one in entries for name in one.labels))
    if not names or not all(isinstance(one.labels, Mapping) for one in entries):
        return None
    column = {name: c for c, name in enumerate(names)}
    found = np.zeros((len(entries), len(names)), dtype=np.int64)
    for k, one in enumerate(entries):
        if isinstance(one.labels, Mapping):
            found[k, [column[name] for name in one.labels]] = list(one.labels.values())
    return found, names


def _section(config: Any, name: str) -> Any:
    """Return a section of a configuration; empty if it is missing."""
    return config.get(name, {}) if isinstance(config, dict) else config


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file does; zeros if there is none."""
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
