"""What a run does right now, put together from what its engine tells, for callbacks and the file in its folder.

Whoever watches is told at most a few times a second, and an error while it is told ends no client's training: it is
kept, and raised between two rounds.
"""

import os
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedhello.engine.observer import ClientPhase, Observer
from fedhello.errors import RunFolderError
from fedhello.notes import logger
from fedhello.runs.callbacks import Callback
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.status import BestScore, ClientStatus, ConnectedClient, Status, write_status
from fedhello.session import Session

PERIOD = 0.33
"""Seconds between two looks at the steps of clients."""

MOST = 0.01
"""The most of a run's time that goes into telling: where it takes longer, with many clients, it is told less often."""

BURST = 6
"""Changes of phase that are told at once; more of them come no faster than steps."""

LAST = 5
"""Number of last rounds whose mean length says how long others will take."""


class StatusFile(Callback):
    """Writes what a run does right now into its folder, if it is there; a file that cannot be written ends no run.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed = False

    def on_progress(self, status: Status) -> None:
        """Write it."""
        if not self._folder.is_dir():
            return
        try:
            write_status(self._folder, status)
        except RunFolderError as error:
            if not self._failed:
                logger.warning("nobody can watch this run: %s", error)
            self._failed = True


@dataclass
class _Client:
    """A client of the round under way; see ``ClientStatus``."""

    phase: ClientPhase
    since: float
    step: int = 0
    steps: int = 0

    @property
    def share(self) -> float:
        """How much of its training is done."""
        if self.phase != "training":
            return float(self.phase != "waiting")
        return self.step / self.steps if self.steps else 0.0


class RunObserver(Observer):
    """Puts together what a run does, and tells callbacks.

    Args:
        session: The session.
        folder: The run's folder, which need not exist yet.
        callbacks: Who is told.
        clock: The time, in Unix seconds.

    Attributes:
        failures: Callbacks that raised an error while they were told, with it; they are told no more.
    """

    def __init__(
        self, session: Session, folder: Path, callbacks: Sequence[Callback], clock: Callable[[], float] = time.time
    ) -> None:
        self.failures: list[tuple[Callback, Exception]] = []
        self._folder, self._callbacks, self._clock = folder, list(callbacks), clock
        self._rounds, self._tiers = session.settings.rounds, session.tier_of
        # Who takes part in a round is a secret that differential privacy needs.
        self._names = None if session.private is not None else {e.client: _name(e.facts) for e in session.roster}
        self._process = psutil.Process()
        self._phase, self._round, self._attempt = "loading", 0, 0
        self._started = self._round_started = clock()
        self._clients: dict[int, _Client] = {}
        self._connected: dict[int, ConnectedClient] = {}
        self._best: BestScore | None = None
        self._lengths: deque[float] = deque(maxlen=LAST)
        self._told, self._period, self._allowance = 0.0, PERIOD, float(BURST)

    def begin(self, start: RunStart) -> None:
        """Take the scores before this process's first round into account; write into the run's folder from here on."""
        self._callbacks.append(StatusFile(self._folder))
        self._round, self._best = start.state.round, BestScore(start.validation.accuracy, 0)
        for record in start.records:
            self.add(record)
        self._tell()

    def add(self, record: RoundRecord) -> None:
        """Take a round, or a failed attempt, into account."""
        if record.report.failed is not None:
            return
        self._lengths.append(record.seconds + record.evaluation_seconds)
        self._round = record.report.round + 1
        found = record.validation
        if found is not None and (self._best is None or found.accuracy > self._best.validation):
            self._best = BestScore(found.accuracy, self._round)

    def on_attempt(self, round: int, attempt: int) -> None:
        """An attempt at a round begins."""
        self._round, self._attempt, self._clients = round, attempt, {}
        self._round_started = self._clock()

    def on_asked(self, client: int) -> None:
        """A client trains in this round."""
        if self._names is not None:
            self._clients[client] = _Client("waiting", self._clock())

    def on_phase(self, phase: str) -> None:
        """The run is about to do something else."""
        if phase != self._phase:
            self._phase = phase
            self._tell_soon(1.0)

    def on_client(self, client: int, phase: ClientPhase) -> None:
        """A client of the round does something else."""
        found = self._clients.get(client)
        if found is not None and found.phase != phase:
            found.phase, found.since = phase, self._clock()
            self._tell_now_and_then()

    def on_step(self, client: int, step: int, steps: int) -> None:
        """A client has done a number of its steps."""
        found = self._clients.get(client)
        if found is not None:
            if found.phase == "waiting":
                found.phase, found.since = "training", self._clock()
            found.step, found.steps = step, steps
        self._tell_now_and_then()

    def on_connected(self, names: Mapping[int, str]) -> None:
        """These clients of a server are connected."""
        now = self._clock()
        self._connected |= {k: ConnectedClient(k, name, now) for k, name in names.items()}
        self._tell_now_and_then()

    def end(self) -> None:
        """The run has ended, and its folder is complete."""
        self._phase, self._clients = "ended", {}
        self._tell()

    def status(self) -> Status:
        """Return what the run does right now."""
        now, names = self._clock(), self._names or {}
        clients = tuple(
            ClientStatus(k, names.get(k), self._tiers[k], one.phase, one.step, one.steps, one.since)
            for k, one in self._clients.items()
        )
        memory = free = None
        with suppress(psutil.Error):
            memory = self._process.memory_info().rss
        with suppress(OSError):
            free = shutil.disk_usage(self._folder if self._folder.exists() else self._folder.absolute().parent).free
        return Status(
            pid=os.getpid(),
            host=socket.gethostname(),
            phase=self._phase,
            round=self._round,
            rounds=self._rounds,
            attempt=self._attempt,
            started=self._started,
            updated=now,
            round_started=self._round_started,
            seconds_left=self._seconds_left(now),
            best=self._best,
            clients=clients,
            connected=tuple(one for _, one in sorted(self._connected.items())),
            memory_bytes=memory,
            disk_free_bytes=free,
        )

    def _seconds_left(self, now: float) -> float | None:
        """Return the seconds of all rounds that are left, at the pace of the last, or of the first one until now."""
        left, spent = self._rounds - self._round, now - self._round_started
        if self._lengths:
            each = sum(self._lengths) / len(self._lengths)
            return max(each * left - min(spent, each), 0.0)
        share = sum(one.share for one in self._clients.values()) / len(self._clients) if self._clients else 0.0
        return None if share < 0.02 else max(spent / share * left - spent, 0.0)

    def _tell_now_and_then(self) -> None:
        if self._clock() - self._told >= self._period:
            self._tell_soon(0.0)

    def _tell_soon(self, cost: float) -> None:
        """Tell, unless too much was told lately."""
        self._allowance = min(self._allowance + (self._clock() - self._told) / self._period, BURST)
        if self._allowance >= cost:
            self._allowance -= cost
            self._tell()

    def _tell(self) -> None:
        began = self._clock()
        status = self.status()
        for callback in list(self._callbacks):
            try:
                callback.on_progress(status)
            except Exception as error:  # it may be called within a client's training, which must not fail from it
                self._callbacks.remove(callback)
                self.failures.append((callback, error))
        self._told = self._clock()
        self._period = max(PERIOD, (self._told - began) / MOST)


def _name(facts: Mapping[str, object] | None) -> str | None:
    found = (facts or {}).get("name")
    return found if isinstance(found, str) else None
