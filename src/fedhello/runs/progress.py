"""The progress of a run, and its restoration from the last checkpoint."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedhello.errors import DataError, RunFolderError
from fedhello.formatting import client_words
from fedhello.model.adapter import LoraModel
from fedhello.model.sources import IMAGES
from fedhello.runs.answers import answer
from fedhello.runs.checkpoint import Checkpoint, Checkpoints, differences, listed
from fedhello.runs.confusion import Confusion, stored_matrices, with_matrix, without_matrices, write_cells
from fedhello.runs.energy import Energy, meter
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import read_evaluation, read_head, write_evaluation, write_head
from fedhello.runs.going_on import changes_of, said
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord, RunStart, start
from fedhello.runs.private_rounds import with_lost_rounds
from fedhello.runs.summarise import versions
from fedhello.runs.summary import KeyChange
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
        changes: Keys that changed where the run went on.
        energy: What the run takes.
        since: Start of this process, on ``time.perf_counter``.
    """

    beginning: RunStart
    answers: tuple[str, ...]
    state: RunState
    results: tuple[RoundRecord, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    changes: tuple[KeyChange, ...] = ()
    energy: Energy = field(default_factory=lambda: Energy(None))
    since: float = field(default_factory=time.perf_counter)

    @property
    def wall_seconds(self) -> float:
        """Wall seconds so far, without those lost with a killed process."""
        return self.seconds + time.perf_counter() - self.since

    def after(self, state: RunState, result: RoundRecord) -> "Progress":
        """Return the progress after one more round."""
        earlier = (*self.results[:-1], *map(without_matrices, self.results[-1:]))
        return replace(self, state=state, results=(*earlier, result))

    @property
    def confusion(self) -> Confusion:
        """The confusion matrices on the test data before training and after the last round."""
        last = next((result for result in reversed(self.results) if result.report.failed is None), None)
        return Confusion.of(self.beginning.test, None if last is None else last.test)

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
            "confusion": [write_cells(self.confusion.before), write_cells(self.confusion.after)],
            "seconds": self.wall_seconds,
            "notes": self.notes,
            "changes": [asdict(change) for change in self.changes],
            "joules": self.energy.joules(),
        }
        return Checkpoint(len(self.results), self.state, identity, more)


def begin(session: Session) -> Progress:
    """Start a run: see ``fedhello.runs.loop.start``."""
    since, energy = time.perf_counter(), Energy(0.0, meter())
    beginning = start(session)
    return Progress(beginning, answer(session), beginning.state, energy=energy, since=since)


def restore_progress(
    session: Session,
    folder: RunFolder,
    warn: Callable[[str], None],
    accept_data: bool = False,
    lr: float | None = None,
) -> Progress:
    """Return the progress in a run's last checkpoint, and reset the folder's files to it.

    A run that was killed before its first checkpoint starts from the beginning.

    Args:
        session: The session prepared from the run's configuration, with any engine.
        folder: The run's folder, locked.
        warn: Called with warnings for the user.
        accept_data: Whether the run goes on with other data.
        lr: η of round 0 from here on; None leaves it.

    Raises:
        ConfigError: If the run has finished as many rounds as it is to have.
        DataError: If the data have changed, and the user does not accept it.
        RunFolderError: If all checkpoints are damaged, or model or configuration differ from the run's.
    """
    since = time.perf_counter()
    found = Checkpoints(folder.checkpoints).latest(warn)
    if found is None and folder.rounds():
        raise RunFolderError(
            f"expected checkpoints in {folder.checkpoints}, since rounds have finished; found none. Start a new "
            f"run: fedhello run {folder.path / 'config.yaml'} run.name=…"
        )
    notes = [] if found is None else check_same(found.identity, session, folder)
    other = _check_data(session, folder, accept_data)
    for note in (*notes, *other, *unchecked_data(session, folder)):
        warn(note)
    _keep(session, folder, other, 0 if found is None else found.state.round)
    notes += other
    if found is None:
        warn("there is no checkpoint yet; the run starts at round 1")
        folder.rewind(0)
        return _changed(session, replace(begin(session), notes=tuple(notes)), {}, lr, warn)
    lost = len(folder.rounds()) - found.lines
    more = found.more
    before, after = stored_matrices(more.get("confusion"), session.labels)
    results = with_matrix(folder.rewind(found.lines), after)
    validation, test = (read_evaluation(more[part]) for part in ("validation", "test"))
    test = replace(test, confusion=None if OTHER_TEST in notes else before)
    state = with_lost_rounds(session, found.state, lost)
    if OTHER_DATA in notes or OTHER_PROCESSOR in notes:
        kept = {key: value for key, value in state.before_final.items() if not key.startswith(("selected/", "losses"))}
        state = replace(state, selected=None, selected_losses=None, before_final=kept)
    place = Progress(
        RunStart(state, _first_head(more), validation, test, tuple(results)),
        tuple(more["answers"]),
        state,
        tuple(results),
        more["seconds"],
        (*more["notes"], *notes),
        tuple(KeyChange(**change) for change in more.get("changes", ())),
        Energy(more.get("joules"), meter()),
        since,
    )
    return _changed(session, place, found.identity["configuration"], lr, warn)


def _changed(
    session: Session, place: Progress, found: Mapping[str, Any], lr: float | None, warn: Callable[[str], None]
) -> Progress:
    """Return the progress with what holds from here on, which is noted."""
    state, changes = changes_of(session, found, place.state, lr)
    notes = [said(change, session.engine.settings, state.lr) for change in changes]
    for note in notes:
        warn(note)
    return replace(
        place,
        state=state,
        beginning=replace(place.beginning, state=state),
        notes=(*place.notes, *notes),
        changes=(*place.changes, *changes),
    )


def _keep(session: Session, folder: RunFolder, other: Sequence[str], done: int) -> None:
    """Write which data a run goes on with from here, if they have changed."""
    found = folder.data()
    if other and found is not None:
        folder.write_data(session.digest, (*found[1], done))


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
            "start": None if session.start is None else session.start.digest,
            "adapter": {name: f"{value.dtype} {tuple(value.shape)}" for name, value in session.initial.items()},
        },
        "start": {"head": session.start is not None and session.start.head},
        "machine": {
            "device": model.device.type,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "training_threads": session.settings.threads or torch.get_num_threads(),
            "autocast": session.engine.settings.autocast,
            **versions(),
        },
    }


OTHER_TRAIN = "the clients' training data are not those that the run started with"

OTHER_DATA = (
    "the server's validation or proxy data are not those that the run started with; model selection starts again with "
    "the last model"
)

OTHER_TEST = (
    "the server's test data are not those that the run started with; test scores before and after cannot be compared"
)

OTHER_PUBLIC = "the server's data for distillation are not those that the run started with"

OTHER_PROCESSOR = (
    "the tokenizer or image processor is not the one that the run started with; model selection starts again with the "
    "last model"
)

NOTES = {
    "train": OTHER_TRAIN,
    "validation": OTHER_DATA,
    "proxy": OTHER_DATA,
    "test": OTHER_TEST,
    "public": OTHER_PUBLIC,
}
"""Part of the data → the note that it has changed."""


ACCEPTING = "--changed-data (from Python changed_data=True)"
"""How a user accepts other data, or another tokenizer."""


def other_data(session: Session, folder: RunFolder) -> list[str]:
    """Return a note if a session prepared again has other validation or test data than the run was scored on."""
    found = folder.data()
    if found is None:
        return [_unknown(folder)]
    other = [part for part in found[0].changed(session.digest) if part in ("validation", "test")]
    if not other:
        return []
    return [
        f"the {' and '.join(other)} data are not those that {folder.path} was scored on: the scores cannot be compared "
        "with the run's, and the data may hold samples that clients trained on"
    ]


def changed_data(session: Session, folder: RunFolder) -> list[str]:
    """Return a note for each part of the data, and on what reads them, that is not the one that a run started with."""
    found = folder.data()
    if found is None:
        return []
    notes = list(dict.fromkeys(NOTES[part] for part in found[0].changed(session.digest)))
    return [*notes, OTHER_PROCESSOR] if found[0].other_processor(session.digest.processor) else notes


def unchecked_data(session: Session, folder: RunFolder) -> list[str]:
    """Return notes on data of which the folder does not tell whether they have changed."""
    found = folder.data()
    if found is None:
        return [_unknown(folder)]
    if "train" in found[0].parts:
        return []
    why = "stay with them" if session.settings.is_remote else "are private (privacy.epsilon)"
    return [f"whether the content of the clients' data has changed is not checked, since their digests {why}"]


def _unknown(folder: RunFolder) -> str:
    return (
        f"whether the data are those of {folder.path} is not checked: it has no digest of them (data.json), like runs "
        "of fedhello 0.1.0"
    )


def _check_data(session: Session, folder: RunFolder, accepted: bool) -> list[str]:
    """Check the data of a run that goes on; return notes on changed data.

    Args:
        session: The session prepared from the run's configuration.
        folder: The run's folder.
        accepted: Whether the user accepts other data.

    Raises:
        DataError: If the data have changed, and the user does not accept it.
    """
    notes, found = changed_data(session, folder), folder.data()
    if not notes or accepted or found is None:
        return notes
    there, here = found[0].parts, session.digest.parts
    parts = [_counted(part, there[part].samples, here[part].samples) for part in found[0].changed(session.digest)]
    other = [f"other data in {', '.join(parts)}"] if parts else []
    if found[0].other_processor(session.digest.processor):
        other.append(another_processor(session.model))
    raise DataError(
        f"expected the data that {folder.path} started with; found {' and '.join(other)}. Restore them, "
        f"start a new run, or go on with these: {ACCEPTING}."
    )


def another_processor(model: LoraModel) -> str:
    """Return in words that what reads a model's data has changed."""
    return f"another {'image processor' if model.kind == IMAGES else 'tokenizer'} of {model.source.base_name}"


def _counted(part: str, there: int, here: int) -> str:
    return part if there == here else f"{part} ({here} samples, {there} at the start)"


def _chosen(before: Mapping[str, Any], here: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a run's configuration with what may differ as it is in this session.

    These are the number of rounds, see ``fedhello.runs.going_on``, and the number type if the run left the choice to
    each process. So did versions that did not keep what was chosen; where it was another, that is among the machine's
    differences.
    """
    train = before.get("train", {})
    keys = [key for key in ("rounds", *(["autocast"] if train.get("autocast") == "auto" else [])) if key in train]
    return {**before, "train": {**train, **{key: here["train"].get(key) for key in keys}}} if keys else before


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
    stated = {**found, "configuration": _chosen(found["configuration"], here["configuration"])}
    for part in ("configuration", "model"):
        other = [_in_words(session, one) for one in differences(stated[part], here[part])]
        if other:
            raise RunFolderError(
                f"expected the {part} that {folder.path} started with; {listed(other)}. Restore it, or start a new run."
            )
    notes = []
    machine = list(differences(found["machine"], here["machine"]))
    if machine:
        notes.append(f"the run continues, but not bit for bit: {listed(machine)}")
    known = folder.clients()
    cohort = _cohort(known, session.roster)
    if cohort:
        ids = [{entry.client for entry in entries} for entries in (known, session.roster)]
        if session.federation.cycle > 1 and ids[0] != ids[1]:
            raise RunFolderError(
                f"expected the clients that {folder.path} started with, since they take turns (privacy.mechanism="
                f"banded); {listed(cohort)}. Bring them back, or start a new run."
            )
        notes.append(f"the clients are not those that the run started with: {listed(cohort)}")
    return notes


def _in_words(session: Session, difference: str) -> str:
    """Return a difference as it is, but that of weights without their digests, which nobody can compare."""
    if difference.startswith("start is "):
        return "the adapter in model.adapter is another now"
    if not difference.startswith("weights is "):
        return difference
    source = session.model.source
    where = f" of revision {source.revision}" if source.revision else ""
    where = f" in {source.location}" if Path(source.location).is_dir() else where
    return f"the frozen weights{where}, of {source.base_name}, are others now, of the same shapes"


def _called(entry: ClientEntry) -> str:
    return client_words(entry.client, (entry.facts or {}).get("name"))


def _cohort(there: Sequence[ClientEntry], here: Sequence[ClientEntry]) -> list[str]:
    """Return in words which clients left, joined, or have other data."""
    before, now = ({entry.client: entry for entry in entries} for entries in (there, here))
    gone = [f"{_called(before[k])} left" for k in sorted(before.keys() - now.keys())]
    new = [f"{_called(now[k])} joined" for k in sorted(now.keys() - before.keys())]
    same = sorted(before.keys() & now.keys())
    return gone + new + [f"{_called(now[k])} has other data or another tier" for k in same if before[k] != now[k]]
