"""Checkpoints: all that is needed to resume a run, in one verified file.

    RUN/checkpoints/checkpoint-000007.safetensors      after seven lines of rounds.jsonl

The tensors are named ``adapter/…`` (the adapter), ``memory/…`` (the method's state), ``sums/…`` and ``base/…`` (head
statistics and their adapter), ``before/…`` (head and sums before the final head), ``selected/…`` and ``losses`` (the
selected model) and ``head/K/…`` (personal heads). The metadata hold JSON: ``format``, ``version`` (of the format),
``fedhello``, ``state`` (the rest of ``RunState``), ``identity`` (what must be the same to resume the run), ``more``,
and ``sha256`` over all bytes of the file with 64 zeros in place of the digest. No state of a random generator is
stored, since ``fedhello.randomness`` has none. Nothing is pickled.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor

from fedhello.errors import RunFolderError
from fedhello.privacy.ledger import write_releases
from fedhello.runs.files import write_whole, writing
from fedhello.safe_tensors import METADATA, read_tensors, stated
from fedhello.state import RunState
from fedhello.types import Adapter

FORMAT = "fedhello checkpoint"
VERSION = 2
"""Version of the format; it rises with each change that earlier versions of fedhello cannot read."""

MANY = 1000
"""With more clients than this behind a head, their ids are written as ranges: that is version 2, all else version 1."""

UNSIGNED = b'"sha256":"' + b"0" * 64 + b'"'
SHOWN = 5
"""The most differences named in a message."""

_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError)
"""Exceptions of reading a file that is not a checkpoint; JSON that is too deep raises a RuntimeError."""


class DamagedError(Exception):
    """A checkpoint file is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        lines: Number of lines of ``rounds.jsonl`` before it; one for each round and each failed attempt.
        state: The state before the next round.
        identity: What must be the same to resume the run, JSON-ready, in sections.
        more: Further values, JSON-ready.
    """

    lines: int
    state: RunState
    identity: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def encode(checkpoint: Checkpoint) -> bytes:
    """Serialise a checkpoint, with its digest."""
    state, heads = checkpoint.state, checkpoint.state.personal_heads
    tensors = {f"adapter/{name}": value for name, value in state.adapter.tensors.items()}
    tensors |= {f"memory/{name}": value for name, value in state.method_state.items()}
    tensors |= {f"sums/{name}": value for name, value in state.head_sums.items()}
    tensors |= {f"before/{name}": value for name, value in state.before_final.items()}
    tensors |= {f"base/{name}": value for name, value in state.head_base.items()}
    selected = state.selected
    if selected is not None and state.selected_losses is not None:
        tensors |= {f"selected/{name}": value for name, value in selected.tensors.items()}
        tensors["losses"] = state.selected_losses
    for k, head in (heads or {}).items():
        tensors |= {f"head/{k}/{name}": value for name, value in head.items()}
    metadata = {
        "version": VERSION if len(state.head_clients) > MANY else 1,
        "fedhello": importlib.metadata.version("fedhello"),
        "lines": checkpoint.lines,
        # The order of names is kept, since sums and random draws may depend on it.
        "state": _plain_state(state)
        | {"block_of": dict(state.adapter.block_of), "memory": list(state.method_state)}
        | {"head_sums": list(state.head_sums), "before_final": list(state.before_final)}
        | {"head_base": list(state.head_base)}
        | {"selected": None if selected is None else dict(selected.block_of)},
        "heads": None if heads is None else {k: list(head) for k, head in heads.items()},
        "identity": checkpoint.identity,
        "more": checkpoint.more,
    }
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    # safetensors does not store one tensor twice, or a view of another.
    apart = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    payload = safetensors.torch.save(apart, {**texts, "format": FORMAT, "sha256": "0" * 64})
    return payload.replace(UNSIGNED, b'"sha256":"%s"' % hashlib.sha256(payload).hexdigest().encode(), 1)


def decode(payload: bytes) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedError: If the file is damaged.
        RunFolderError: If a later version of fedhello wrote it in a newer format.
    """
    try:
        texts = _verified(payload)
        version = json.loads(texts["version"])
        if version > VERSION:
            raise RunFolderError(
                f"expected a checkpoint of format {VERSION} or earlier; found {version}, written by fedhello "
                f"{json.loads(texts['fedhello'])}. Resume the run with that version."
            )
        return _read(texts, read_tensors(payload, DamagedError))
    except _DAMAGED as error:
        raise DamagedError(" ".join(f"{error or type(error).__name__}".split())) from error


def _verified(payload: bytes) -> dict[str, str]:
    """Return the metadata of a file, after verifying its digest."""
    texts: dict[str, str] = stated(payload, DamagedError)[METADATA]
    if texts["format"] != FORMAT:
        raise DamagedError("it is no checkpoint")
    signed = b'"sha256":"%s"' % texts["sha256"].encode()
    if hashlib.sha256(payload.replace(signed, UNSIGNED, 1)).hexdigest() != texts["sha256"]:
        raise DamagedError("its digest differs from its content")
    return texts


def _read(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Checkpoint:
    state, heads = json.loads(texts["state"]), json.loads(texts["heads"])
    block_of = state["block_of"]
    adapter = Adapter({name: tensors[f"adapter/{name}"] for name in block_of}, block_of)
    method_state = {name: tensors[f"memory/{name}"] for name in state["memory"]}
    sums = {name: tensors[f"sums/{name}"] for name in state.get("head_sums", ())}
    before = {name: tensors[f"before/{name}"] for name in state.get("before_final", ())}
    base = {name: tensors[f"base/{name}"] for name in state.get("head_base", ())}
    chosen = state.get("selected")
    selected = None if chosen is None else Adapter({name: tensors[f"selected/{name}"] for name in chosen}, chosen)
    return Checkpoint(
        json.loads(texts["lines"]),
        RunState(
            adapter=adapter,
            method_state=method_state,
            head_sums=sums,
            before_final=before,
            head_base=base,
            selected=selected,
            selected_losses=None if selected is None else tensors["losses"],
            personal_heads=None
            if heads is None
            else {int(k): {n: tensors[f"head/{k}/{n}"] for n in names} for k, names in heads.items()},
            **_state_values(state),
        ),
        json.loads(texts["identity"]),
        json.loads(texts["more"]),
    )


def _plain_state(state: RunState) -> dict[str, Any]:
    """Return the parts of a state that are not tensors, by their names in files."""
    return {
        "round": state.round,
        "scores": state.scores,
        "excess": dict(state.excess),
        "attempt": state.attempt,
        "head_clients": _ranges(state.head_clients) if len(state.head_clients) > MANY else state.head_clients,
        "head_most": state.head_most,
        "selected_round": state.selected_round,
        "forgotten": state.forgotten,
        "lr": state.lr,
        "releases": write_releases(state.releases),
    }


def _ranges(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending ids as ranges, each from its first to its last."""
    breaks = np.flatnonzero(np.diff(ids) != 1)
    first, last = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(ids) - 1]])
    return [(ids[i], ids[j]) for i, j in zip(first.tolist(), last.tolist(), strict=True)]


def _state_values(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return these parts, read and checked; parts missing in files of earlier versions have their defaults."""
    known = [name for name in _plain_state(RunState(0, Adapter({}, {}))) if name in found]
    ids = found.get("head_clients", ())
    if len(ids) and isinstance(ids[0], list):
        found = {**found, "head_clients": [k for first, last in ids for k in range(first, last + 1)]}
    return {name: TypeAdapter(_TYPES[name]).validate_python(found[name]) for name in known}


_TYPES: Mapping[str, Any] = {f.name: f.type for f in fields(RunState)}


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Yield each difference between two JSON-ready values in words; keys that only ``here`` has are ignored."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name, value in there.items():
            yield from differences(value, here.get(name), f"{key}.{name}" if key else str(name))
    elif there != here:
        yield f"{key} is {there!r} there and {here!r} here"


def listed(found: list[str]) -> str:
    """Return the first sentences joined, with the number of further ones."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


@dataclass(frozen=True)
class Checkpoints:
    """The folder of a run's newest checkpoints.

    Attributes:
        folder: Their folder; created with the first one.
        keep: Number of checkpoints that are kept.
    """

    folder: Path
    keep: int = 3

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, completely or not at all; remove the oldest ones, and those of abandoned rounds.

        Raises:
            RunFolderError: If it cannot be written; the earlier ones do not change.
        """
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        newest = self.folder / f"checkpoint-{checkpoint.lines:06}.safetensors"
        write_whole(newest, encode(checkpoint))
        files = self.files()
        first = files.index(newest)
        with writing(self.folder):
            for file in (*files[:first], *files[first + self.keep :]):
                file.unlink()

    def files(self) -> list[Path]:
        """Return the checkpoint files, the newest first."""
        found = self.folder.glob("checkpoint-*.safetensors")
        return sorted(found, key=lambda file: (len(file.name), file.name), reverse=True)

    def latest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest undamaged checkpoint; None if there are no files.

        Args:
            warn: Called with a message for each newer one that is damaged.

        Raises:
            RunFolderError: If all checkpoints are damaged, or a later fedhello wrote the newest undamaged one.
        """
        files = self.files()
        for file in files:
            try:
                return decode(file.read_bytes())
            except (DamagedError, OSError) as error:
                warn(f"the checkpoint {file} is damaged and skipped: {error}")
            except RunFolderError as error:
                raise RunFolderError(f"{file}: {error}") from error
        if files:
            raise RunFolderError(
                f"expected an undamaged checkpoint in {self.folder}; all {len(files)} are damaged. Start a new run: "
                f"fedhello run {self.folder.parent / 'config.yaml'} run.name=…"
            )
        return None
