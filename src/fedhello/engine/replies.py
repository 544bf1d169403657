"""A client's reply as bytes, from the process that trained it to the one that asked; nothing of it is rounded.

reply  =  4 bytes header length, little endian  ·  header, JSON  ·  safetensors
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields

from torch import Tensor

from fedhello.client.first_step import StepBytes
from fedhello.engine.wire import decode_tensors, encode_tensors
from fedhello.engine.workers import Said
from fedhello.types import Rejection, Update

_PREFIX = struct.Struct("<I")
_TENSORS, _HEAD = "update/", "head/"


@dataclass(frozen=True)
class Reply:
    """A reply, and what else is left of a client's training.

    Attributes:
        found: The update or the rejection.
        head: The client's own head after training; empty without one.
        said: What was logged and printed.
        steps: What steps take that were measured for the first time; see ``fedhello.client.first_step``.
    """

    found: Update | Rejection
    head: Mapping[str, Tensor]
    said: Said
    steps: Mapping[str, StepBytes] = field(default_factory=dict)


def packed(reply: Reply) -> bytes:
    """Return a reply as bytes."""
    found, said = reply.found, reply.said
    tensors = found.tensors if isinstance(found, Update) else {}
    header = {
        "kind": type(found).__name__,
        "fields": {part.name: getattr(found, part.name) for part in fields(found) if part.name != "tensors"},
        "said": [said.records, said.out, said.err],
        "steps": {kind: astuple(step) for kind, step in reply.steps.items()},
        "names": [list(tensors), list(reply.head)],  # safetensors sorts them, and sums over tensors depend on order
    }
    text = json.dumps(header).encode()
    values = {_TENSORS + name: value for name, value in tensors.items()}
    values |= {_HEAD + name: value for name, value in reply.head.items()}
    return _PREFIX.pack(len(text)) + text + encode_tensors(values)


def unpacked(payload: bytes) -> Reply:
    """Return the reply in bytes that this package made."""
    (length,) = _PREFIX.unpack_from(payload)
    end = _PREFIX.size + length
    header, values = json.loads(payload[_PREFIX.size : end]), decode_tensors(payload[end:])
    names, heads = header["names"]
    said = Said(*header["said"])
    steps = {kind: StepBytes(*step) for kind, step in header["steps"].items()}
    head = {name: values[_HEAD + name] for name in heads}
    if header["kind"] == Rejection.__name__:
        return Reply(Rejection(**header["fields"]), head, said, steps)
    tensors = {name: values[_TENSORS + name] for name in names}
    return Reply(Update(**header["fields"], tensors=tensors), head, said, steps)
