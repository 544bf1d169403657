"""The progress of a run, and its restoration from the last checkpoint."""

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
from fedhello.runs.private_rounds import with_lost_rounds
from fedhello.runs.summarise import versions
from fedhello.session import ClientEntry, Session
from fedhello.state import RunState


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        beginning: The start of the run; its state is the one from which this process started.
        answers: A language model's answers before training.
        state: The state before the next round.
        results: Records of every round so far and of every failed attempt.
        seconds: Wall seconds of earlier processes.
        notes: Notes about resuming.
        since: Start of this process, on ``time.perf_counter``.
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
        """Wall seconds so far, without those lost with a killed process."""
        return self.seconds + time.perf_counter() - self.since

    def after(self, state: RunState, result: RoundRecord) -> "Progress":
        """Return the progress after one more round."""
        return replace(self, state=state, results=(*self.results, result))

    def checkpoint(self, identity: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint from which a later process can continue.

        Args:
            identity: The session's identity; see ``identity_of``.
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
    """Return the progress in a run's last checkpoint, and reset the folder's files to it.

    A run that was killed before its first checkpoint starts from the beginning.

    Args:
        session: The session prepared from the run's configuration, with any engine.
        folder: The run's folder, locked.
        warn: Called with warnings for the user.

    Raises:
        RunFolderError: If all checkpoints are damaged, or model or configuration differ from the run's.
    """
    since = time.perf_counter()
    found = Checkpoints(folder.checkpoints).latest(warn)
    if found is None:
        if folder.rounds():
            raise RunFolderError(
                f"expected checkpoints in {folder.checkpoints}, since rounds have finished; found none. Start a new "
                f"run: fedhello run {folder.path / 'config.yaml'} run.name=…"
            )
        warn("there is no checkpoint yet; the run starts at round 1")
        folder.rewind(0)
        return begin(session)
    notes = check_same(found.identity, session, folder)
    for note in notes:
        warn(note)
    lost = len(folder.rounds()) - found.lines
    results = folder.rewind(found.lines)
    more = found.more
    validation, test = (read_evaluation(more[part]) for part in ("validation", "test"))
    state = with_lost_rounds(session, found.state, lost)
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
    """Return how the initial head was made; checkpoints of 0.1.0 have only the bytes."""
    if "bytes_up" in more:
        return HeadChange(0, 0, more["bytes_up"], 0)
    return None if more["head"] is None else read_head(more["head"])


def identity_of(session: Session) -> dict[str, Any]:
    """Return what must be the same when a run is resumed: configuration and model; and what should be: the machine."""
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
"""Number of validation and of test samples whose content is in a digest, spread evenly."""


def _data(session: Session) -> dict[str, str]:
    """Return digests of the server's data.

    ``server``, the only digest in earlier checkpoints, is of the labels and lengths of validation and proxy data.
    """
    server = session.server
    parts = {"server": (server.validation, server.proxy), "validation": (server.validation,), "test": (server.test,)}
    return {name: _digest(those, content=name != "server") for name, those in parts.items()}


def _digest(parts: Sequence[Samples], content: bool) -> str:
    """Return a digest of labels and lengths and, with ``content``, of some samples' content."""
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
    """Return the names of the digests that differ; digests missing in older checkpoints are not compared."""
    there = found.get("data", {})
    return [part for part in here if part in there and there[part] != here[part]]


def other_data(session: Session, folder: RunFolder) -> list[str]:
    """Return a note if a session prepared again has other validation or test data than the run was scored on.

    Args:
        session: The session prepared again from the run's configuration.
        folder: The run's folder; without a checkpoint the data cannot be compared.
    """
    notes: list[str] = []
    try:
        found = Checkpoints(folder.checkpoints).latest(notes.append)
    except RunFolderError as error:
        return [*notes, f"the data cannot be compared with those of the run: {error}"]
    if found is None:
        return notes
    other = _other_parts(found.identity, _data(session))
    if "validation" in found.identity.get("data", {}) and "server" in other:
        other.remove("server")  # it also covers the proxy data, which do not matter here
    if other:
        named = " and ".join(other).replace("server", "validation or proxy")
        notes.append(
            f"the {named} data are not those that {folder.path} was scored on: the scores cannot be compared with the "
            "run's, and the data may hold samples that clients trained on"
        )
    return notes


def check_same(found: Mapping[str, Any], session: Session, folder: RunFolder) -> list[str]:
    """Check that a checkpoint belongs to this session, and return notes on differences that are not errors.

    Args:
        found: The checkpoint's identity.
        session: The session prepared from the run's configuration.
        folder: The run's folder.

    Raises:
        RunFolderError: If configuration or model differ from the run's.
    """
    here = identity_of(session)
    for part in ("configuration", "model"):
        other = list(differences(found[part], here[part]))
        if other:
            raise RunFolderError(
                f"expected the {part} that {folder.path} started with; {listed(other)}. Restore it, or start a new run."
            )
    notes = []
    machine = list(differences(found["machine"], here["machine"]))
    if machine:
        notes.append(f"the run continues, but not bit for bit: {listed(machine)}")
    cohort = _cohort(folder.clients(), session.roster)
    if cohort:
        ids = [{entry.client for entry in entries} for entries in (folder.clients(), session.roster)]
        if session.federation.cycle > 1 and ids[0] != ids[1]:
            raise RunFolderError(
                f"expected the clients that {folder.path} started with, since they take turns (privacy.mechanism="
                f"banded); {listed(cohort)}. Bring them back, or start a new run."
            )
        notes.append(f"the clients are not those that the run started with: {listed(cohort)}")
    other = _other_parts(found, here["data"])
    if "server" in other or "validation" in other:
        notes.append(OTHER_DATA)
    if "test" in other:
        notes.append(OTHER_TEST)
    return notes


OTHER_DATA = (
    "the server's validation or proxy data are not those that the run started with; model selection starts again with "
    "the last model"
)

OTHER_TEST = (
    "the server's test data are not those that the run started with; test scores before and after cannot be compared"
)


def _cohort(there: Sequence[ClientEntry], here: Sequence[ClientEntry]) -> list[str]:
    """Return in words which clients left, joined, or have other data."""
    before, now = ({entry.client: entry for entry in entries} for entries in (there, here))
    gone = [f"client {k} left" for k in sorted(before.keys() - now.keys())]
    new = [f"client {k} joined" for k in sorted(now.keys() - before.keys())]
    same = sorted(before.keys() & now.keys())
    return gone + new + [f"client {k} has other data or another tier" for k in same if before[k] != now[k]]
