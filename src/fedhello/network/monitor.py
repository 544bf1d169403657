"""Whether a run goes on as it should, and its figures in the words of Prometheus; for ``fedhello.network.metrics``.

A monitor is a callback: what it knows comes from the run itself, so that nothing is read from files, and asking it
costs the run no more than the tenth of a millisecond that writing the answer takes.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from fedhello.errors import MissingExtraError
from fedhello.runs.callbacks import Callback
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.status import Status
from fedhello.runs.summary import Summary
from fedhello.session import Session
from fedhello.state import ClientReport, RunState
from fedhello.types import Reason, Rejection

try:
    from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("metrics need prometheus-client; run: pip install 'fedhello[flower]'") from error

INFO = ("version", "run")
"""Labels that stay the same as long as a process runs."""

FIRST = 3600.0
"""Seconds without any sign of life after which a run counts as stalled, while no attempt at a round has ended."""

LEAST, TIMES = 600.0, 10.0
"""Later: this many seconds, or so many times as long as the longest attempt so far, whichever is more."""

FEW = 60.0
"""Seconds for which fewer clients than a round needs may be connected."""


@dataclass
class _Figures:
    """Sums over the attempts at rounds, of earlier processes too."""

    rounds: int = 0
    failed: int = 0
    up: int = 0
    down: int = 0
    seconds: float = 0.0
    attempts: int = 0
    longest: float = 0.0
    last: float | None = None
    rejections: Counter[str] = field(default_factory=Counter)
    failure: str | None = None

    def add(self, record: RoundRecord) -> None:
        """Count an attempt."""
        report = record.report
        self.attempts += 1
        self.rounds += report.failed is None
        self.failed += report.failed is not None
        self.failure = None if report.failed is None else f"round {report.round + 1} failed: {report.failed}"
        sent: list[ClientReport | Rejection | HeadChange] = [*report.clients, *report.rejections]
        sent += [] if record.head is None else [record.head]
        self.up += sum(one.bytes_up for one in sent) + report.score_bytes_up
        self.down += sum(one.bytes_down for one in sent) + report.score_bytes_down
        self.last = record.seconds + record.evaluation_seconds
        self.seconds += self.last
        self.longest = max(self.longest, self.last)
        self.rejections.update(rejection.reason for rejection in report.rejections)


class Monitor(Callback, Collector):
    """Follows a run.

    Args:
        folder: The folder that the run's folder is, or will be, in.
        clock: Seconds that only grow.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._phase, self._moved = "loading", clock()
        self._few: float | None = None
        self._figures = _Figures()
        self._scores: dict[str, float] = {}
        self._clients = self._connected = self._quorum = self._rounds = 0
        self._remote = False
        self._status: Status | None = None
        self._sign: object = None

    def on_loading(self, what: str) -> None:
        """Take in a sign of life."""
        self._moved = self._clock()

    def on_waiting(self, connected: int, wanted: int) -> None:
        """Take in how many clients are here; the wait has an end of its own, ``run.wait``."""
        self._phase, self._moved = "waiting", self._clock()
        self._connected, self._clients = connected, wanted

    def on_start(self, session: Session, start: RunStart) -> None:
        """Take in what a run is, and the rounds of earlier processes."""
        self._phase, self._moved = "training", self._clock()
        self._clients, self._rounds = len(session.roster), session.settings.rounds
        self._remote, self._quorum = session.settings.is_remote, session.federation.quorum
        self._figures = _Figures()
        if start.head is not None:
            self._figures.up, self._figures.down = start.head.bytes_up, start.head.bytes_down
        self._score(start)
        for record in start.records:
            self._figures.add(record)
            self._score(record)
        self._figures.longest, self._figures.failure = 0.0, None  # of this process alone

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Count an attempt."""
        self._moved = self._clock()
        self._figures.add(record)
        self._score(record)

    def on_progress(self, status: Status) -> None:
        """Take in what the run does right now."""
        sign = status.phase, status.round, status.attempt, [(one.phase, one.step) for one in status.clients]
        if sign != self._sign:
            self._sign, self._moved = sign, self._clock()
        self._status, self._phase = status, status.phase
        if self._remote:
            self._connected = len(status.here)
            enough = self._connected >= self._quorum
            self._few = None if enough else self._clock() if self._few is None else self._few

    def on_end(self, summary: Summary) -> None:
        """Take in how it ended."""
        self._phase, self._moved = "ended", self._clock()
        self._figures.failure = summary.error

    def _score(self, of: RunStart | RoundRecord) -> None:
        if of.validation is None or of.test is None:
            return
        best = max(self._scores.get("best", 0.0), of.validation.accuracy)
        self._scores = {"validation": of.validation.accuracy, "test": of.test.accuracy, "best": best}

    @property
    def _silent(self) -> float:
        return self._clock() - self._moved

    def complaint(self) -> str | None:
        """Return why the run does not go on as it should; None if it does."""
        figures = self._figures
        patience = max(LEAST, TIMES * figures.longest) if figures.longest else FIRST
        if self._phase != "ended" and self._silent > patience:
            return f"stalled: no sign of life for {self._silent:.0f} s; expected one within {patience:.0f} s"
        if self._few is not None and self._clock() - self._few > FEW:
            return f"waiting for clients: {self._connected} are connected, and a round needs {self._quorum}"
        return figures.failure

    def health(self) -> dict[str, Any]:
        """Return whether the run goes on as it should, with what tells where it is; for ``/healthz``."""
        reason = self.complaint()
        return {
            "status": "ok" if reason is None else "failing",
            "reason": reason,
            "phase": self._phase,
            "round": self._figures.rounds,
            "rounds": self._rounds or None,
            "clients": self._clients or None,
            "connected": self._connected if self._remote or self._phase == "waiting" else None,
            "seconds_since_progress": round(self._silent, 1),
        }

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; the only label that varies within a run is the reason of a rejection, one of fifteen."""
        figures = self._figures
        info = GaugeMetricFamily("fedhello_info", "Version of fedhello and the run's name; always 1.", labels=INFO)
        info.add_metric([version("fedhello"), self._folder.name], 1)
        yield info
        for name, (help_, value) in self._gauges().items():
            if value is not None:
                yield GaugeMetricFamily(f"fedhello_{name}", help_, value=value)
        counted = {
            "received_bytes": ("Bytes that clients sent: updates, scores, head statistics.", figures.up),
            "sent_bytes": ("Bytes sent to clients.", figures.down),
            "failed_attempts": ("Attempts at rounds that failed.", figures.failed),
        }
        for name, (help_, count) in counted.items():
            yield CounterMetricFamily(f"fedhello_{name}", help_, value=count)
        rejections = CounterMetricFamily(
            "fedhello_rejections", "Replies of clients that did not count.", labels=["reason"]
        )
        for reason in get_args(Reason):
            rejections.add_metric([reason], figures.rejections[reason])
        yield rejections
        yield SummaryMetricFamily(
            "fedhello_round_seconds", "Attempts at rounds, with scoring.", figures.attempts, figures.seconds
        )

    def _gauges(self) -> dict[str, tuple[str, float | None]]:
        asked = None if self._status is None else self._status.clients
        late = None if asked is None else sum(one.phase in ("late", "lost") for one in asked)
        return {
            "healthy": ("1 if the run goes on as it should, as /healthz says; else 0.", self.complaint() is None),
            "round": ("Finished rounds.", self._figures.rounds),
            "rounds": ("Rounds that the run will have.", self._rounds or None),
            "clients": ("Clients that take part in the run.", self._clients or None),
            "clients_connected": (
                "Clients that are connected now.",
                self._connected if self._remote or self._phase == "waiting" else None,
            ),
            "clients_asked": ("Clients asked in this round.", None if asked is None else len(asked)),
            "clients_late": ("Of them, those late or lost in this round.", late),
            "last_round_seconds": ("The last attempt at a round, with scoring.", self._figures.last),
            "validation_accuracy": ("After the last scored round, 0 to 1.", self._scores.get("validation")),
            "best_validation_accuracy": ("The best so far, 0 to 1.", self._scores.get("best")),
            "test_accuracy": ("After the last scored round, 0 to 1.", self._scores.get("test")),
            "seconds_since_progress": ("Since the last sign of life.", self._silent),
            "memory_bytes": (
                "Resident memory of the server's process.",
                None if self._status is None else self._status.memory_bytes,
            ),
            "disk_free_bytes": ("Room on the disk of the run's folder.", _free(self._folder)),
        }


def pages_of(monitor: Monitor) -> Any:
    """Return the WSGI app of what a monitor knows, and of what the operating system says of this process."""
    registry = CollectorRegistry()
    registry.register(monitor)
    ProcessCollector(registry=registry)
    return make_wsgi_app(registry)


def _free(folder: Path) -> float | None:
    """Return how much room there is where a folder is, or will be."""
    there = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), None)
    return None if there is None else float(shutil.disk_usage(there).free)
