"""How adapters and updates travel: a fixed header and safetensors; no pickle, no class names.

    update  =  4 bytes "FHU1"  ·  4 bytes header length, little endian  ·  header, JSON  ·  safetensors

The header holds round, client, samples and metrics. The receiver knows which keys, shapes and dtypes to expect,
since it made the allocation; whatever differs is refused with the reason.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedhello.errors import UpdateError
from fedhello.types import Adapter, Task, Update

MAGIC = b"FHU1"
_PREFIX = struct.Struct("<4sI")
MALFORMED = (
    struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, RuntimeError,
    SafetensorError,
)  # fmt: skip
"""All that JSON and safetensors raise on bytes that are none; found by fuzzing."""


SAFETENSORS_ALIGNMENT = 8
"""Bytes that the header of safetensors is padded to."""


@dataclass(frozen=True)
class Expected:
    """What the receiver knows of an update before it arrives.

    Attributes:
        client: Who was asked.
        round: When.
        samples: The sample count that the client declared when it joined.
        tensors: Name → tensor of the shape and dtype that must come back.
    """

    client: int
    round: int
    samples: int
    tensors: Mapping[str, Tensor]


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors, as they go down to a client."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def encode_task(task: Task) -> bytes:
    """Serialise what a client is asked to do and starts from, but for what it knows already."""
    allocation = task.allocation
    header: dict[str, object] = {"round": task.round, "blocks": allocation.blocks, "policies": allocation.policies}
    if allocation.components:
        header["components"] = allocation.components
    if allocation.factors != "AB":
        header["factors"] = allocation.factors
    if allocation.absent:
        header["absent"] = allocation.absent
    sent = {name: value for name, value in task.adapter.tensors.items() if name not in task.known}
    return json.dumps(header, separators=(",", ":")).encode() + encode_tensors(sent)


def encode_update(update: Update) -> bytes:
    """Serialise an update, as it goes up to the server.

    Metrics are written with a fixed number of digits, so that equal runs send equally many bytes although their
    seconds differ.

    Raises:
        ValueError: If a metric is not finite.
    """
    if not all(math.isfinite(value) for value in update.metrics.values()):
        raise ValueError(f"expected finite metrics of client {update.client}; found {dict(update.metrics)}")
    metrics = ",".join(f"{json.dumps(name)}:{value:.9e}" for name, value in update.metrics.items())
    header = f'{{"client":{update.client},"round":{update.round},"samples":{update.samples},"metrics":{{{metrics}}}}}'
    packed = header.encode()
    return _PREFIX.pack(MAGIC, len(packed)) + packed + encode_tensors(update.tensors)


def upload_bound(adapter: Adapter, metrics: Iterable[str]) -> tuple[tuple[int, ...], int]:
    """Return the most bytes that an update takes: per block, and for all the rest.

    Args:
        adapter: With at least one block.
        metrics: Names of the metrics that clients send.
    """
    L = 1 + max(block for block in adapter.block_of.values() if block is not None)
    total = sum(value.nbytes for value in adapter.tensors.values())
    blocks, rest = [0] * L, 0
    for name, value in adapter.tensors.items():
        # An entry of the header of safetensors, with the longest offsets there can be.
        entry = {"dtype": "BF16", "shape": [*value.shape], "data_offsets": [total, total]}
        size = value.nbytes + len(json.dumps({name: entry}, separators=(",", ":")))
        block = adapter.block_of[name]
        if block is None:
            rest += size
        else:
            blocks[block] += size
    largest = Update(10**9, 10**6, 10**9, {}, dict.fromkeys(metrics, -1.0))
    return tuple(blocks), rest + len(encode_update(largest)) + SAFETENSORS_ALIGNMENT


def decode_update(payload: bytes, expected: Expected, bytes_down: int) -> Update:
    """Check a serialised update against what was asked for, and return it.

    Raises:
        UpdateError: If anything differs; the sentence names the client and the difference.
    """
    who = f"client {expected.client} in round {expected.round}"
    try:
        magic, length = _PREFIX.unpack_from(payload)
        if magic != MAGIC:
            raise ValueError("it does not begin as an update")
        header = json.loads(payload[_PREFIX.size : _PREFIX.size + length])
        tensors = safetensors.torch.load(payload[_PREFIX.size + length :])
        metrics = _metrics(header["metrics"])
    except MALFORMED as error:
        raise UpdateError(f"expected an update from {who}; the message is malformed: {error}") from error
    for key in ("client", "round", "samples"):
        if type(header.get(key)) is not int or header[key] != getattr(expected, key):
            raise UpdateError(f"expected {key} {getattr(expected, key)} from {who}; found {header.get(key)!r}")
    _check_tensors(tensors, expected, who)
    return Update(
        client=expected.client,
        round=expected.round,
        samples=expected.samples,
        tensors=tensors,
        metrics=metrics,
        bytes_down=bytes_down,
        bytes_up=len(payload),
    )


def _metrics(found: Mapping[str, object]) -> dict[str, float]:
    for name, value in found.items():
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
            raise ValueError(f"the metric {name!r} is not a finite number")
    return {name: float(value) for name, value in found.items()}  # type: ignore[arg-type]


def _check_tensors(tensors: Mapping[str, Tensor], expected: Expected, who: str) -> None:
    odd = sorted(tensors.keys() ^ expected.tensors.keys())
    if odd:
        state = "is missing" if odd[0] in expected.tensors else "was not allocated"
        raise UpdateError(f"expected exactly the allocated tensors from {who}; {odd[0]!r} {state}")
    for name, value in tensors.items():
        like = expected.tensors[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise UpdateError(
                f"expected {name!r} from {who} as {like.dtype} of shape {tuple(like.shape)}; "
                f"found {value.dtype} of shape {tuple(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise UpdateError(f"expected finite values from {who}; {name!r} holds NaN or infinity")
