"""Checkpoints: what a run needs to go on, in one verified file.

    RUN/checkpoints/checkpoint-000007.safetensors      after seven lines of rounds.jsonl

The tensors are those of the adapter, of the method's state, of head statistics and the adapter that they are of, of
what the final head took the place of, of the selected model and its losses, and of personal heads, named ``adapter/…``,
``memory/…``, ``sums/…``, ``base/…``, ``before/…``, ``selected/…``, ``losses`` and ``head/K/…``. The metadata hold
JSON: ``format``, ``version`` (of the format), ``fedhello``, ``state`` (the rest of ``RunState``), ``identity`` (what
must be the same for a run to go on), ``more``, and ``sha256`` over all bytes of the file, taken with 64 zeros in its
own place. There is no position of a random generator, since ``fedhello.randomness`` has none. Nothing is pickled.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor

from fedhello.errors import RunFolderError
from fedhello.runs.files import write_whole, writing
from fedhello.state import RunState
from fedhello.types import Adapter

FORMAT = "fedhello checkpoint"
VERSION = 1
"""Of the format; it rises whenever an earlier fedhello could not read the file."""

UNSIGNED = b'"sha256":"' + b"0" * 64 + b'"'
SHOWN = 5
"""Differences that a sentence names at most."""

_HEADER_SIZE = 8
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, SafetensorError)
"""All that a file raises which is none of ours although its digest is right."""


class DamagedError(Exception):
    """A file is not as it was written."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        lines: How many lines of ``rounds.jsonl`` belong to it; one for each round and each abandoned attempt at one.
        state: What the next round starts from.
        identity: What must be the same for a run to go on, JSON-ready, in sections.
        more: Anything else, JSON-ready.
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
        "version": VERSION,
        "fedhello": importlib.metadata.version("fedhello"),
        "lines": checkpoint.lines,
        # Names in their order, since sums and draws may follow it.
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
    # A file may not hold one tensor twice, nor a view into another.
    apart = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    payload = safetensors.torch.save(apart, {**texts, "format": FORMAT, "sha256": "0" * 64})
    return payload.replace(UNSIGNED, b'"sha256":"%s"' % hashlib.sha256(payload).hexdigest().encode(), 1)


def decode(payload: bytes) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        DamagedError: If it is not as it was written.
        RunFolderError: If a later fedhello wrote it, in a format that this one does not know.
    """
    try:
        texts = _verified(payload)
        version = json.loads(texts["version"])
        if version > VERSION:
            raise RunFolderError(
                f"expected a checkpoint of format {VERSION} or earlier; found {version}, written by fedhello "
                f"{json.loads(texts['fedhello'])}. Go on with that version."
            )
        return _read(texts, safetensors.torch.load(payload))
    except _DAMAGED as error:
        raise DamagedError(" ".join(f"{error or type(error).__name__}".split())) from error


def _verified(payload: bytes) -> dict[str, str]:
    """Return the metadata of a file whose digest is right."""
    end = _HEADER_SIZE + int.from_bytes(payload[:_HEADER_SIZE], "little")
    if not _HEADER_SIZE < end <= len(payload):
        raise DamagedError(f"{len(payload)} bytes are too few")
    texts: dict[str, str] = json.loads(payload[_HEADER_SIZE:end])["__metadata__"]
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
    """Return what of a state is no tensor, under the names that files have."""
    return {
        "round": state.round,
        "scores": state.scores,
        "excess": dict(state.excess),
        "attempt": state.attempt,
        "head_clients": state.head_clients,
        "selected_round": state.selected_round,
        "forgotten": state.forgotten,
        "lr": state.lr,
    }


def _state_values(found: Mapping[str, Any]) -> dict[str, Any]:
    """Read the same back, checked; what is not there, since an earlier fedhello wrote the file, has its default."""
    known = [name for name in _plain_state(RunState(0, Adapter({}, {}))) if name in found]
    return {name: TypeAdapter(_TYPES[name]).validate_python(found[name]) for name in known}


_TYPES: Mapping[str, Any] = {f.name: f.type for f in fields(RunState)}


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Yield in words where two JSON-ready values differ; a key that only ``here`` has did not exist there yet."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name, value in there.items():
            yield from differences(value, here.get(name), f"{key}.{name}" if key else str(name))
    elif there != here:
        yield f"{key} is {there!r} there and {here!r} here"


def listed(found: list[str]) -> str:
    """Join sentences, and count those that are too many to be named."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


@dataclass(frozen=True)
class Checkpoints:
    """The newest checkpoints of a run.

    Attributes:
        folder: Where they are; made with the first one.
        keep: How many.
    """

    folder: Path
    keep: int = 3

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all; remove those that are too old, or of rounds that were given up.

        Raises:
            RunFolderError: If it cannot be written; the earlier ones are as they were.
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
        """Return what is there, the newest first."""
        found = self.folder.glob("checkpoint-*.safetensors")
        return sorted(found, key=lambda file: (len(file.name), file.name), reverse=True)

    def latest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """Read the newest good checkpoint; None where there never was one.

        Args:
            warn: Is told of each newer one that is damaged.

        Raises:
            RunFolderError: If there are checkpoints and none is good, or a later fedhello wrote the newest good one.
        """
        files = self.files()
        for file in files:
            try:
                return decode(file.read_bytes())
            except (DamagedError, OSError) as error:
                warn(f"the checkpoint {file} is damaged and left out: {error}")
            except RunFolderError as error:
                raise RunFolderError(f"{file}: {error}") from error
        if files:
            raise RunFolderError(
                f"expected a good checkpoint in {self.folder}; all {len(files)} are damaged. Start the run anew: "
                f"fedhello run {self.folder.parent / 'config.yaml'} run.name=…"
            )
        return None
