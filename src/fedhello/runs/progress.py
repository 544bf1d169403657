"""How far a run has come, and how a run that has stopped goes on from its last checkpoint."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fedhello.data.batches import Samples
from fedhello.errors import RunFolderError
from fedhello.runs.answers import answer
from fedhello.runs.checkpoint import Checkpoint, Checkpoints, differences, listed
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import read_evaluation, read_head, write_evaluation, write_head
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord, RunStart, start
from fedhello.runs.summarise import versions
from fedhello.session import ClientEntry, Session
from fedhello.state import RunState


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        beginning: What was there before round 0; its state is the one that this process started from.
        answers: A language model's, before training.
        state: What the next round starts from.
        results: Of every round so far, and of every abandoned attempt at one.
        seconds: Wall seconds of earlier processes.
        notes: What is to be known of going on.
        since: When this process began, on ``time.perf_counter``.
    """

    beginning: RunStart
    answers: tuple[str, ...]
    state: RunState
    results: tuple[RoundRecord, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    since: float = field(default_factory=time.perf_counter)

    @property
    def wall_seconds(self) -> float:
        """Wall seconds so far; what was lost with a killed process does not count."""
        return self.seconds + time.perf_counter() - self.since

    def after(self, state: RunState, result: RoundRecord) -> "Progress":
        """Return the progress after one more round."""
        return replace(self, state=state, results=(*self.results, result))

    def checkpoint(self, identity: Mapping[str, Any]) -> Checkpoint:
        """Return what a later process needs to go on from here.

        Args:
            identity: Of the session, see ``identity_of``.
        """
        more = {
            "head": None if self.beginning.head is None else write_head(self.beginning.head),
            "validation": write_evaluation(self.beginning.validation),
            "test": write_evaluation(self.beginning.test),
            "answers": self.answers,
            "seconds": self.wall_seconds,
            "notes": self.notes,
        }
        return Checkpoint(len(self.results), self.state, identity, more)


def begin(session: Session) -> Progress:
    """Start a run: see ``fedhello.runs.loop.start``."""
    since = time.perf_counter()
    beginning = start(session)
    return Progress(beginning, answer(session), beginning.state, since=since)


def restore_progress(session: Session, folder: RunFolder, warn: Callable[[str], None]) -> Progress:
    """Go back to a run's last checkpoint, and let the folder look as it did then; ``play`` goes on from there.

    A run that was killed before its first checkpoint starts.

    Args:
        session: Prepared from the run's configuration, with any engine.
        folder: Locked.
        warn: Is told what a user must hear of.

    Raises:
        RunFolderError: If no checkpoint is good, or model or configuration are not the run's.
    """
    since = time.perf_counter()
    found = Checkpoints(folder.checkpoints).latest(warn)
    if found is None:
        if folder.rounds():
            raise RunFolderError(
                f"expected checkpoints in {folder.checkpoints}, since rounds have finished; found none. Start the run "
                f"anew: fedhello run {folder.path / 'config.yaml'} run.name=…"
            )
        warn("there is no checkpoint yet; the run begins at round 1")
        folder.rewind(0)
        return begin(session)
    notes = check_same(found.identity, session, folder)
    for note in notes:
        warn(note)
    results = folder.rewind(found.lines)
    more = found.more
    validation, test = (read_evaluation(more[part]) for part in ("validation", "test"))
    state = found.state
    if OTHER_DATA in notes:
        kept = {key: value for key, value in state.before_final.items() if not key.startswith(("selected/", "losses"))}
        state = replace(state, selected=None, selected_losses=None, before_final=kept)
    return Progress(
        RunStart(state, _first_head(more), validation, test, tuple(results)),
        tuple(more["answers"]),
        state,
        tuple(results),
        more["seconds"],
        (*more["notes"], *notes),
        since,
    )


def _first_head(more: Mapping[str, Any]) -> HeadChange | None:
    """Return how the head came about before round 0; checkpoints of 0.1.0 know the bytes alone."""
    if "bytes_up" in more:
        return HeadChange(0, 0, more["bytes_up"], 0)
    return None if more["head"] is None else read_head(more["head"])


def identity_of(session: Session) -> dict[str, Any]:
    """Return what a run must not change on its way: configuration and model; and what it should not: the machine."""
    model = session.model
    return {
        "configuration": dict(session.relevant),
        "model": {
            "blocks": session.federation.num_blocks,
            "weights": model.weights_digest(),
            "tensors": len(session.initial),
            "adapter": {name: f"{value.dtype} {tuple(value.shape)}" for name, value in session.initial.items()},
        },
        "data": _data(session),
        "machine": {
            "device": model.device.type,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "autocast": session.engine.settings.autocast,
            **versions(),
        },
    }


DIGESTED = 64
"""How many samples of the validation and of the test data have their content in a digest, spread evenly."""


def _data(session: Session) -> dict[str, str]:
    """Return digests of the server's data.

    ``server`` is of labels and lengths of what scores adapters, the only digest in earlier checkpoints.
    """
    server = session.server
    parts = {"server": (server.validation, server.proxy), "validation": (server.validation,), "test": (server.test,)}
    return {name: _digest(those, content=name != "server") for name, those in parts.items()}


def _digest(parts: Sequence[Samples], content: bool) -> str:
    """Return a digest of labels and lengths, and of some samples' content if asked for."""
    digest = hashlib.sha256()
    for part in parts:
        for values in (part.labels, part.lengths()):
            digest.update(np.asarray(values, dtype=np.int64).tobytes())
        if content and len(part):
            some = np.linspace(0, len(part) - 1, min(len(part), DIGESTED)).astype(int)
            for name, value in part.batch(some).inputs.items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _other_parts(found: Mapping[str, Any], here: Mapping[str, str]) -> list[str]:
    """Return the names of the digests that differ; what an earlier fedhello did not write is not compared."""
    there = found.get("data", {})
    return [part for part in here if part in there and there[part] != here[part]]


def other_data(session: Session, folder: RunFolder) -> list[str]:
    """Return a note where a session prepared again has other validation or test data than the run was last scored on.

    Args:
        session: Prepared again from the run's configuration.
        folder: Of the run; without a checkpoint, nothing is known of its data.
    """
    notes: list[str] = []
    try:
        found = Checkpoints(folder.checkpoints).latest(notes.append)
    except RunFolderError as error:
        return [*notes, f"whether the data are those of the run cannot be told: {error}"]
    if found is None:
        return notes
    other = _other_parts(found.identity, _data(session))
    if "validation" in found.identity.get("data", {}) and "server" in other:
        other.remove("server")  # what it says of the proxy data, which only choose, is of no account here
    if other:
        named = " and ".join(other).replace("server", "validation or proxy")
        notes.append(
            f"the {named} data are not those that {folder.path} was scored on: the scores cannot be compared with the "
            "run's, and the data may hold samples that clients trained on"
        )
    return notes


def check_same(found: Mapping[str, Any], session: Session, folder: RunFolder) -> list[str]:
    """Check that a checkpoint is of this session, and return notes of what differs without being an error.

    Args:
        found: The checkpoint's identity.
        session: Prepared from the run's configuration.
        folder: Of the run.

    Raises:
        RunFolderError: If configuration or model are not the run's.
    """
    here = identity_of(session)
    for part in ("configuration", "model"):
        other = list(differences(found[part], here[part]))
        if other:
            raise RunFolderError(
                f"expected the {part} that {folder.path} began with; {listed(other)}. Put it back, or begin another."
            )
    notes = []
    machine = list(differences(found["machine"], here["machine"]))
    if machine:
        notes.append(f"the run goes on, but not bit for bit: {listed(machine)}")
    cohort = _cohort(folder.clients(), session.roster)
    if cohort:
        notes.append(f"the clients are not those that the run began with: {listed(cohort)}")
    other = _other_parts(found, here["data"])
    if "server" in other or "validation" in other:
        notes.append(OTHER_DATA)
    if "test" in other:
        notes.append(OTHER_TEST)
    return notes


OTHER_DATA = (
    "the server's validation or proxy data are not those that the run began with; which model is handed back is "
    "decided anew, beginning with the last one"
)

OTHER_TEST = (
    "the server's test data are not those that the run began with; test scores before and after cannot be compared"
)


def _cohort(there: Sequence[ClientEntry], here: Sequence[ClientEntry]) -> list[str]:
    """Return in words who left, joined, or has other data."""
    before, now = ({entry.client: entry for entry in entries} for entries in (there, here))
    gone = [f"client {k} left" for k in sorted(before.keys() - now.keys())]
    new = [f"client {k} joined" for k in sorted(now.keys() - before.keys())]
    same = sorted(before.keys() & now.keys())
    return gone + new + [f"client {k} has other data or another tier" for k in same if before[k] != now[k]]
