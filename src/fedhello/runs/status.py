"""What a run does right now: the file ``.status.json`` in its folder, rewritten while the run goes on.

It is for those who watch, and nothing in a run depends on it: it is replaced whole, but not waited for until it is on
disk, and a reader that finds none, or something else, goes without.
"""

import json
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import TypeAdapter, ValidationError

from fedhello.engine.observer import ClientPhase
from fedhello.runs.files import writing

FILE = ".status.json"
"""Name of the file in a run's folder."""

LOOKS = ("heads", "scores", "training")
"""Phases in which a server looks every second who is connected."""

SEEN = 5.0
"""Seconds after which a client that was not seen is not connected."""

LARGEST = 2**26
"""The most bytes that are read of it; a thousand clients take less than 200 kB."""


@dataclass(frozen=True)
class ClientStatus:
    """A client that was asked in this round.

    Attributes:
        client: Its id.
        name: Its name; None on this machine.
        tier: Index of its tier.
        phase: ``sent`` counts, or will be checked; ``rejected`` does not count, as ``late`` and ``lost``.
        step: Steps of training that it has done; 0 on other machines, which do not tell.
        steps: Steps of training in this round; 0 if not known.
        since: When this phase began, in Unix seconds.

    Example:
        >>> class Names(fh.Callback):
        ...     def on_progress(self, status):
        ...         assert all(isinstance(client, fh.ClientStatus) for client in status.clients)
        >>> _ = fh.run("my.yaml", callbacks=[Names()])
    """

    client: int
    name: str | None
    tier: int
    phase: ClientPhase
    step: int
    steps: int
    since: float


@dataclass(frozen=True)
class ConnectedClient:
    """A client of a server.

    Attributes:
        client: Its id.
        name: Its name.
        last_seen: When it was last connected, in Unix seconds; of one that is now, within the last seconds.

    Example:
        >>> fh.ConnectedClient(client=3, name="berlin", last_seen=0.0).name
        'berlin'
    """

    client: int
    name: str
    last_seen: float


@dataclass(frozen=True)
class BestScore:
    """The best score so far.

    Attributes:
        validation: Accuracy on the validation data.
        round: Number of rounds after which it was reached, 0 before training.

    Example:
        >>> fh.BestScore(validation=0.75, round=2).round
        2
    """

    validation: float
    round: int


@dataclass(frozen=True)
class Status:
    """What a run does right now.

    Attributes:
        pid: The process.
        host: Its machine.
        phase: ``loading`` (all before the first of the others), ``heads``, ``scores`` (Fisher scores), ``training``,
            ``aggregating``, ``scoring``, ``answers`` (to test prompts), ``saving`` or ``ended``.
        round: The round under way, from 0.
        rounds: Their number.
        attempt: Earlier failed attempts at this round.
        started: When the process began with its rounds, in Unix seconds.
        updated: When this was written, likewise.
        round_started: When the attempt at this round began, likewise.
        seconds_left: Estimate until the end; None if not known.
        best: The best score so far; None before the first.
        clients: Those asked in this round; empty under differential privacy, where nobody may see who takes part.
        connected: The clients of a server, ever seen by this process; empty on one machine.
        memory_bytes: Resident memory of the process, without those that it started.
        disk_free_bytes: Room on the folder's disk.
        format: Of the file.

    Example:
        >>> class Phases(fh.Callback):
        ...     seen = set()
        ...     def on_progress(self, status):
        ...         self.seen.add(status.phase)
        >>> _ = fh.run("my.yaml", callbacks=[Phases()])
        >>> {"training", "ended"} <= Phases.seen
        True
    """

    pid: int
    host: str
    phase: str
    round: int
    rounds: int
    attempt: int
    started: float
    updated: float
    round_started: float
    seconds_left: float | None
    best: BestScore | None
    clients: tuple[ClientStatus, ...] = ()
    connected: tuple[ConnectedClient, ...] = ()
    memory_bytes: int | None = None
    disk_free_bytes: int | None = None
    format: Literal[1] = 1

    @property
    def is_alive(self) -> bool | None:
        """Whether the process still runs; None if it is, or was, on another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            # A process that began after this was written has taken the number of the one that wrote it.
            return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= self.updated + 1
        except psutil.Error:
            return False

    @property
    def here(self) -> tuple[ConnectedClient, ...]:
        """Clients of a server that were connected when it last looked, which it does not do in every phase."""
        looked = max((one.last_seen for one in self.connected), default=0.0)
        looked = self.updated if self.phase in LOOKS else looked
        return tuple(one for one in self.connected if one.last_seen >= looked - SEEN)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as in the file."""
        return asdict(self)


def write_status(folder: Path, status: Status) -> None:
    """Replace the file in a run's folder.

    Raises:
        RunFolderError: If it cannot be written.
    """
    file = folder / FILE
    temporary = file.with_name(f"{FILE}.tmp")
    with writing(file):
        try:
            # vars instead of asdict, which copies everything: a thousand clients would take seven times as long.
            temporary.write_text(json.dumps(status, default=vars), encoding="utf-8")
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def read_status(folder: Path) -> Status | None:
    """Return what the run in a folder does, or did last; None if its file is missing, torn, or something else."""
    try:
        with (folder / FILE).open("rb") as file:
            return _adapter().validate_json(file.read(LARGEST))
    except (OSError, ValidationError):
        return None


@cache
def _adapter() -> TypeAdapter[Status]:
    return TypeAdapter(Status)
