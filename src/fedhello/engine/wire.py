"""Wire format of adapters and updates: a fixed header and safetensors, without pickle or class names.

    update  =  4 bytes "FHU1"  ·  4 bytes header length, little endian  ·  32 bytes SHA-256 of all that follows
               ·  header, JSON  ·  safetensors

The header holds run, client, round, samples and metrics. All updates are decoded by ``decode``. The receiver knows
which run, round, client, keys, shapes and dtypes to expect, since it made the allocation, and takes none of them from
the message. Any difference results in a ``Rejection`` with the reason; nothing is raised.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

import safetensors.torch
from torch import Tensor

from fedhello.client.settings import ALWAYS_MEASURED, METRICS
from fedhello.engine.headers import (
    as_components,
    as_steps,
    check_correction,
    no_header,
    no_tensors,
    task_header,
    tensor_header,
)
from fedhello.engine.tensors import check_bounds, check_names, check_values, short
from fedhello.errors import UpdateError
from fedhello.factors import part, spread
from fedhello.safe_tensors import read_json, read_tensors
from fedhello.types import LORA_A, Adapter, Allocation, Reason, Rejection, Task, Update

MAGIC = b"FHU1"
_PREFIX = struct.Struct("<4sI32s")

SAFETENSORS_ALIGNMENT = 8
"""The header of safetensors is padded to a multiple of these bytes."""

SLACK = 1.1
"""Factor on the expected bytes of a message, since versions of safetensors may write longer headers."""

RUN_ID = 32
"""The most characters of a run's id."""

LONGEST_HEADER = 2048
"""The most bytes of the JSON header; with every metric and the longest numbers it takes less than half."""

CORRECTION = "correction/"
"""Prefix of the names of SCAFFOLD's corrections."""

IDENTITY: dict[str, Reason] = {"run": "stale", "round": "stale", "client": "not invited"}
"""Fields that identify an update, and the reason of a rejection if they differ."""

MOST_SAMPLES = 2**31 - 1
"""Upper bound on a sample count."""

LARGEST_METRIC = 1e15
"""Upper bound on every metric; the lower bound is 0, since all of them are counts, bytes, seconds or losses."""

LARGEST_LOSS = 1e9
"""Upper bound on a built-in loss."""

ROUNDING_OF_LOSS = 1e-3
"""How far below 0 rounding may take a built-in loss, whose terms are cross-entropies, divergences and norms."""


@dataclass(frozen=True)
class Expected:
    """What the receiver knows about an update before it arrives.

    Attributes:
        client: The client's id.
        round: The round.
        samples: The sample count that the client declared when it joined.
        tensors: Name → tensor of the expected shape and dtype.
        run: Id of the run, at most ``RUN_ID`` characters.
        bytes_down: Bytes sent to the client.
        max_bytes: The most bytes of the message, which is rejected unread otherwise; None derives it from the rest.
        own_loss: Whether clients train with a user's own loss, which may be negative and of any size.
        kept: The lower rank that all factors may have instead; zeros take the place of the rest. None for no other.
    """

    client: int
    round: int
    samples: int
    tensors: Mapping[str, Tensor]
    run: str = ""
    bytes_down: int = 0
    max_bytes: int | None = None
    own_loss: bool = False
    kept: int | None = None

    @property
    def limit(self) -> int:
        """The most bytes of the message."""
        if self.max_bytes is not None:
            return self.max_bytes
        return int(SLACK * sum(_sizes(self.tensors).values(), _fixed(METRICS)))


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors to be sent to a client."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def decode_tensors(payload: bytes) -> dict[str, Tensor]:
    """Return tensors serialised by ``encode_tensors``, unchecked.

    Raises:
        UpdateError: If it is none, or a name is given twice.
    """
    return read_tensors(payload, no_tensors)


def encode_task(task: Task) -> bytes:
    """Serialise a task, without tensors that the client knows, and with the products that it missed."""
    return written_header(task) + encode_tensors(sent_tensors(task))


def written_header(task: Task) -> bytes:
    """Return what precedes the tensors of a task."""
    allocation = task.allocation
    header: dict[str, object] = {"round": task.round, "blocks": allocation.blocks, "policies": allocation.policies}
    if allocation.components:
        header["components"] = allocation.components
    if allocation.factors != "AB":
        header["factors"] = allocation.factors
    if allocation.absent:
        header["absent"] = allocation.absent
    if not allocation.head:
        header["head"] = False
    if task.lr is not None:
        header["lr"] = task.lr
    if task.clip is not None:
        header["clip"] = task.clip
    if task.steps is not None:
        header["steps"] = asdict(task.steps)
    return json.dumps(header, separators=(",", ":")).encode()


def sent_tensors(task: Task) -> dict[str, Tensor]:
    """Return the tensors of a task by their names in the message."""
    sent = {name: value for name, value in task.adapter.tensors.items() if name not in task.known}
    return {**sent, **task.missed, **{CORRECTION + name: value for name, value in task.correction.items()}}


def expect(
    task: Task, samples: int, run: str, bytes_down: int, own_loss: bool = False, kept: int | None = None
) -> Expected:
    """Return the expected update for a task.

    Args:
        task: The client's task.
        samples: The sample count that the client declared when it joined.
        run: Id of the run.
        bytes_down: Bytes on the wire of the task.
        own_loss: See ``Expected``.
        kept: See ``Expected``.
    """
    tensors = {name: task.adapter.tensors[name] for name in task.adapter.names(task.allocation)}
    return Expected(task.client, task.round, samples, tensors, run, bytes_down, own_loss=own_loss, kept=kept)


def encode_update(update: Update, run: str = "") -> bytes:
    """Serialise an update to be sent to the server.

    Metrics are written with a fixed number of digits, so that the bytes do not depend on measured seconds.

    Raises:
        ValueError: If a metric is not finite, or the run's id is too long.
    """
    if not all(math.isfinite(value) for value in update.metrics.values()):
        raise ValueError(f"expected finite metrics of client {update.client}; found {dict(update.metrics)}")
    if len(run) > RUN_ID:
        raise ValueError(f"expected an id of the run with at most {RUN_ID} characters; found {run!r}")
    metrics = ",".join(f"{json.dumps(name)}:{value:.9e}" for name, value in update.metrics.items())
    who = f'"run":{json.dumps(run)},"client":{update.client},"round":{update.round},"samples":{update.samples}'
    header = f'{{{who},"metrics":{{{metrics}}}}}'.encode()
    return seal(header, encode_tensors(update.tensors))


def seal(header: bytes, tensors: bytes) -> bytes:
    """Return the two parts of an update after magic, length and digest."""
    body = header + tensors
    return _PREFIX.pack(MAGIC, len(header), hashlib.sha256(body).digest()) + body


def upload_bound(adapter: Adapter, metrics: Iterable[str]) -> tuple[tuple[int, ...], int]:
    """Return upper bounds on the bytes of an update: per block, and for the rest.

    Args:
        adapter: An adapter with at least one block.
        metrics: Names of the metrics that clients send.
    """
    L = 1 + max(block for block in adapter.block_of.values() if block is not None)
    blocks, rest = [0] * L, 0
    for name, size in _sizes(adapter.tensors).items():
        block = adapter.block_of[name]
        if block is None:
            rest += size
        else:
            blocks[block] += size
    return tuple(blocks), rest + _fixed(tuple(metrics))


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the most bytes of each tensor: its values and its entry in the header of safetensors."""
    total = sum(value.nbytes for value in tensors.values())
    return {name: value.nbytes + _entry_size(name, tuple(value.shape), total) for name, value in tensors.items()}


@lru_cache(maxsize=4096)
def _entry_size(name: str, shape: tuple[int, ...], total: int) -> int:
    """Return the bytes of a tensor's entry with the longest possible offsets."""
    entry = {"dtype": "BF16", "shape": shape, "data_offsets": [total, total]}
    return len(json.dumps({name: entry}, separators=(",", ":")))


@cache
def _fixed(metrics: tuple[str, ...]) -> int:
    """Return the most bytes of an update without tensors."""
    largest = Update(10**9, 10**6, 10**9, {}, dict.fromkeys(metrics, -1.0))
    return len(encode_update(largest, "x" * RUN_ID)) + SAFETENSORS_ALIGNMENT


def decode(payload: bytes, expected: Expected) -> Update | Rejection:
    """Decode and check an update.

    Args:
        payload: Untrusted bytes.
        expected: The expected update.

    Returns:
        The update, with at most the declared sample count, or a rejection. Nothing is raised, and no memory much
        larger than the payload is allocated.
    """
    try:
        header, body = _opened(payload, expected)
        _check_identity(header, expected)
        samples = _samples(header["samples"], expected)
        metrics = _metrics(header["metrics"], samples, expected.own_loss)
        tensors = _tensors(body, expected.tensors, expected.kept)
        check_bounds(tensors)
    except UpdateError as error:
        who = f"client {expected.client} in round {expected.round}"
        sizes = (expected.bytes_down, len(payload))
        return Rejection(expected.client, expected.round, error.reason, f"{error}, from {who}", *sizes)
    return Update(
        client=expected.client,
        round=expected.round,
        samples=samples,
        tensors=tensors,
        metrics=metrics,
        bytes_down=expected.bytes_down,
        bytes_up=len(payload),
    )


def _opened(payload: bytes, expected: Expected) -> tuple[dict[str, Any], bytes]:
    """Return header and tensors of a message, after checking its size and digest."""
    if len(payload) > expected.limit:
        raise UpdateError(f"expected at most {expected.limit} bytes; found {len(payload)}", "too large")
    if len(payload) < _PREFIX.size or not payload.startswith(MAGIC):
        raise UpdateError("expected an update; found other first bytes", "malformed")
    _, length, digest = _PREFIX.unpack_from(payload)
    body = memoryview(payload)[_PREFIX.size :]
    if length > min(len(body), LONGEST_HEADER):
        raise UpdateError(f"expected a header within the message; found a stated length of {length} bytes", "malformed")
    if hashlib.sha256(body).digest() != digest:
        raise UpdateError("expected the digest of the sent bytes; found another", "checksum")
    header = read_json(bytes(body[:length]), no_header)
    if header.keys() != {"run", "client", "round", "samples", "metrics"}:
        raise UpdateError(f"expected run, client, round, samples and metrics; found {short(list(header))}", "malformed")
    return header, bytes(body[length:])


def _check_identity(header: Mapping[str, Any], expected: Expected) -> None:
    for key, reason in IDENTITY.items():
        found, right = header[key], getattr(expected, key)
        if type(found) is not type(right) or found != right:
            raise UpdateError(f"expected {key} {right!r}; found {short(found)}", reason)


def _samples(found: object, expected: Expected) -> int:
    """Return the sample count, at most the declared one."""
    if type(found) is not int or not 1 <= found <= MOST_SAMPLES:
        raise UpdateError(f"expected a sample count of at least 1; found {short(found)}", "wrong count")
    return min(found, expected.samples)


def _metrics(found: object, samples: int, own_loss: bool) -> dict[str, float]:
    """Return the metrics after checking: only known names, all required ones, each within what it can be."""
    if not isinstance(found, dict) or not set(ALWAYS_MEASURED) <= found.keys() <= set(METRICS):
        names = short(list(found) if isinstance(found, dict) else found)
        raise UpdateError(f"expected the metrics {', '.join(METRICS)}; found {names}", "malformed")
    for name, value in found.items():
        least, most = _range(name, own_loss)
        if type(value) not in (int, float) or not least <= value <= most:
            raise UpdateError(
                f"expected the metric {name} to be a number within {least:g} … {most:g}; found {short(value)}",
                "out of bounds",
            )
    if not 1 <= found["batches"] <= samples:
        raise UpdateError(f"expected 1 to {samples} batches; found {short(found['batches'])}", "wrong count")
    return {name: float(value) for name, value in found.items()}


def _range(name: str, own_loss: bool) -> tuple[float, float]:
    """Return the smallest and the largest value of a metric."""
    if name != "loss":
        return 0.0, LARGEST_METRIC
    return (-LARGEST_METRIC, LARGEST_METRIC) if own_loss else (-ROUNDING_OF_LOSS, LARGEST_LOSS)


def decode_sums(payload: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return serialised sums after checking them.

    Args:
        payload: Untrusted bytes.
        like: Name → tensor of the expected shape and dtype; 64-bit integers may come as 32-bit integers.

    Raises:
        UpdateError: If names, shapes or types differ, or a value is not finite.
    """
    most = int(SLACK * sum(_sizes(like).values(), LONGEST_HEADER))
    if len(payload) > most:
        raise UpdateError(f"expected at most {most} bytes; found {len(payload)}", "too large")
    return _tensors(payload, like)


def decode_adapter(payload: bytes, block_of: Mapping[str, int | None]) -> Adapter:
    """Return, on the client, an adapter serialised by ``encode_tensors``.

    Raises:
        UpdateError: If it is not an adapter of this model.
    """
    try:
        tensors = decode_tensors(payload)
        return Adapter({}, {name: block_of[name] for name in tensors if name in block_of}).with_tensors(tensors)
    except Exception as error:  # as in decode_task
        raise UpdateError(f"expected an adapter for this model; {short(str(error))}", "malformed") from error


def decode_task(payload: bytes, client: int, block_of: Mapping[str, int | None]) -> Task:
    """Return, on the client, a task serialised by ``encode_task``.

    Args:
        payload: The bytes from the server.
        client: The client's id.
        block_of: Name → block of the client's model.

    Raises:
        UpdateError: If it is not a task for this model.
    """
    try:
        header, end = task_header(payload)
        tensors = decode_tensors(payload[end:])
        lists = {key: tuple(header[key]) for key in ("blocks", "policies", "absent") if key in header}
        components = as_components(header.get("components", []))
        factors, head = header.get("factors", "AB"), header.get("head", True)
        allocation = Allocation(**lists, components=components, factors=factors, head=head)
        values = {name: value for name, value in tensors.items() if not name.startswith(CORRECTION)}
        known = {name: block_of[name] for name in values if name in block_of}
        adapter = Adapter({}, known).with_tensors(values)
        correction = {name.removeprefix(CORRECTION): value for name, value in tensors.items() if name not in values}
        check_correction(correction, adapter, allocation)
        lr, clip = header.get("lr"), header.get("clip")
        for value, what in ((lr, "learning rate"), (clip, "clip")):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"a {what} of {value}")
        steps = as_steps(header.get("steps"))
        round_ = int(header["round"])
        return Task(client, round_, allocation, adapter, correction=correction, lr=lr, clip=clip, steps=steps)
    except Exception as error:  # the server is trusted about what to train, but its bytes may be malformed
        raise UpdateError(f"expected a task for this model; {short(str(error))}", "malformed") from error


def _tensors(body: bytes, expected: Mapping[str, Tensor], kept: int | None = None) -> dict[str, Tensor]:
    _check_names(body, expected)
    tensors = decode_tensors(body)
    if kept is not None and all(value.shape[:1] == (kept,) for name, value in tensors.items() if name.endswith(LORA_A)):
        check_values(tensors, {name: part(name, like, range(kept)) for name, like in expected.items()})
        return {name: spread(name, value, expected[name], range(kept)) for name, value in tensors.items()}
    check_values(tensors, expected)
    return tensors


def _check_names(body: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Check the names in the header of safetensors, before any tensor is read."""
    most = int(SLACK * sum((_entry_size(n, tuple(v.shape), len(body)) for n, v in tensors.items()), LONGEST_HEADER))
    check_names(tensor_header(body, most).keys(), tensors)
