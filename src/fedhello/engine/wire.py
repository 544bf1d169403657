"""How adapters and updates travel: a fixed header and safetensors; no pickle, no class names.

    update  =  4 bytes "FHU1"  ·  4 bytes header length, little endian  ·  32 bytes SHA-256 of all that follows
               ·  header, JSON  ·  safetensors

The header holds run, client, round, samples and metrics. ``decode`` is the one door for whatever comes back: the
receiver knows which run, round, client, keys, shapes and dtypes to expect, since it made the allocation, and takes
none of them from the message. What differs in any way becomes a ``Rejection`` with the reason; nothing is raised.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from fedhello.client.settings import ALWAYS_MEASURED, METRICS
from fedhello.engine.tensors import check_bounds, check_names, check_values, short
from fedhello.errors import UpdateError
from fedhello.types import Adapter, Allocation, Reason, Rejection, Task, Update

MAGIC = b"FHU1"
_PREFIX = struct.Struct("<4sI32s")
_LENGTH = struct.Struct("<Q")

SAFETENSORS_ALIGNMENT = 8
"""Bytes that the header of safetensors is padded to."""

SLACK = 1.1
"""How many times the expected bytes a message may have; another version of safetensors may write a longer header."""

RUN_ID = 32
"""The longest id of a run."""

LONGEST_HEADER = 2048
"""Bytes of the JSON header that are read; with every metric and the longest numbers it takes less than half."""

LONGEST_TASK_HEADER = 2**16
"""Characters within which the JSON of a task ends: blocks and policies of thousands of blocks."""

CORRECTION = "correction/"
"""What the name of a tensor begins with that is SCAFFOLD's correction of one."""

IDENTITY: dict[str, Reason] = {"run": "stale", "round": "stale", "client": "not invited"}
"""What an update states of itself, and what it is called where that differs."""

MOST_SAMPLES = 2**31 - 1
"""A sample count above it is no count."""

LARGEST_METRIC = 1e15
"""No loss, count, second or byte that a client measures is larger in absolute value."""


@dataclass(frozen=True)
class Expected:
    """What the receiver knows of an update before it arrives.

    Attributes:
        client: Who was asked.
        round: When.
        samples: The sample count that the client declared when it joined.
        tensors: Name → tensor of the shape and dtype that must come back.
        run: Id of the run, at most ``RUN_ID`` characters.
        bytes_down: Bytes that the client was sent.
        max_bytes: A longer message is refused unread; None derives the limit from the other fields.
    """

    client: int
    round: int
    samples: int
    tensors: Mapping[str, Tensor]
    run: str = ""
    bytes_down: int = 0
    max_bytes: int | None = None

    @property
    def limit(self) -> int:
        """The most bytes that the message may have."""
        if self.max_bytes is not None:
            return self.max_bytes
        return int(SLACK * sum(_sizes(self.tensors).values(), _fixed(METRICS)))


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors, as they go down to a client."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def encode_task(task: Task) -> bytes:
    """Serialise what a client is asked to do and starts from, without what it knows already, with what it missed."""
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
    sent = {name: value for name, value in task.adapter.tensors.items() if name not in task.known}
    sent |= task.missed
    sent |= {CORRECTION + name: value for name, value in task.correction.items()}
    return json.dumps(header, separators=(",", ":")).encode() + encode_tensors(sent)


def expect(task: Task, samples: int, run: str, bytes_down: int) -> Expected:
    """Return what must come back for a task.

    Args:
        task: What the client was asked to do.
        samples: The sample count that it declared when it joined.
        run: Id of the run.
        bytes_down: Bytes of the task, as sent.
    """
    tensors = {name: task.adapter.tensors[name] for name in task.adapter.names(task.allocation)}
    return Expected(task.client, task.round, samples, tensors, run, bytes_down)


def encode_update(update: Update, run: str = "") -> bytes:
    """Serialise an update, as it goes up to the server.

    Metrics are written with a fixed number of digits, so that equal runs send equally many bytes although their
    seconds differ.

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
    """Put the two parts of an update behind magic, length and digest."""
    body = header + tensors
    return _PREFIX.pack(MAGIC, len(header), hashlib.sha256(body).digest()) + body


def upload_bound(adapter: Adapter, metrics: Iterable[str]) -> tuple[tuple[int, ...], int]:
    """Return the most bytes that an update takes: per block, and for all the rest.

    Args:
        adapter: With at least one block.
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
    return tuple(blocks), rest + _fixed(metrics)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the most bytes that each tensor takes: its values and its entry in the header of safetensors."""
    total = sum(value.nbytes for value in tensors.values())
    return {name: value.nbytes + _entry_size(name, value, total) for name, value in tensors.items()}


def _entry_size(name: str, value: Tensor, total: int) -> int:
    """Return the bytes of a tensor's entry with the longest offsets there can be."""
    entry = {"dtype": "BF16", "shape": [*value.shape], "data_offsets": [total, total]}
    return len(json.dumps({name: entry}, separators=(",", ":")))


def _fixed(metrics: Iterable[str]) -> int:
    """Return the most bytes that an update without tensors takes."""
    largest = Update(10**9, 10**6, 10**9, {}, dict.fromkeys(metrics, -1.0))
    return len(encode_update(largest, "x" * RUN_ID)) + SAFETENSORS_ALIGNMENT


def decode(payload: bytes, expected: Expected) -> Update | Rejection:
    """Check whatever came back against what was asked for: the one door for updates.

    Args:
        payload: Any bytes at all.
        expected: What the receiver knows.

    Returns:
        The update, with at most the declared sample count, or why it does not count. Nothing is raised, and nothing
        much larger than the payload is ever allocated.
    """
    try:
        header, body = _opened(payload, expected)
        _check_identity(header, expected)
        samples = _samples(header["samples"], expected)
        metrics = _metrics(header["metrics"], samples)
        tensors = _tensors(body, expected.tensors)
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
    """Return header and tensors of a message that arrived as it was sent."""
    if len(payload) > expected.limit:
        raise UpdateError(f"expected at most {expected.limit} bytes; found {len(payload)}", "too large")
    if len(payload) < _PREFIX.size or not payload.startswith(MAGIC):
        raise UpdateError("expected an update; it does not begin as one", "malformed")
    _, length, digest = _PREFIX.unpack_from(payload)
    body = memoryview(payload)[_PREFIX.size :]
    if length > min(len(body), LONGEST_HEADER):
        raise UpdateError(f"expected a header within the message; it claims {length} bytes", "malformed")
    if hashlib.sha256(body).digest() != digest:
        raise UpdateError("expected the bytes as they were sent; the digest differs", "checksum")
    header = _json(bytes(body[:length]))
    if header.keys() != {"run", "client", "round", "samples", "metrics"}:
        raise UpdateError(f"expected run, client, round, samples and metrics; found {short(list(header))}", "malformed")
    return header, bytes(body[length:])


def _json(text: bytes) -> dict[str, Any]:
    """Read a JSON object in which no key comes twice and every number is one."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key comes twice")
        return found

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        found = json.loads(text.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UpdateError(f"expected JSON; {short(str(error))}", "malformed") from error
    if not isinstance(found, dict):
        raise UpdateError(f"expected a JSON object; found {short(found)}", "malformed")
    return found


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


def _metrics(found: object, samples: int) -> dict[str, float]:
    """Return the metrics: known names alone, all that are needed, plain numbers within reason."""
    if not isinstance(found, dict) or not set(ALWAYS_MEASURED) <= found.keys() <= set(METRICS):
        names = short(list(found) if isinstance(found, dict) else found)
        raise UpdateError(f"expected the metrics {', '.join(METRICS)}; found {names}", "malformed")
    for name, value in found.items():
        if type(value) not in (int, float) or not abs(value) <= LARGEST_METRIC:
            raise UpdateError(f"expected the metric {name} to be a number; found {short(value)}", "out of bounds")
    if not 1 <= found["batches"] <= samples:
        raise UpdateError(f"expected 1 to {samples} batches; found {short(found['batches'])}", "wrong count")
    return {name: float(value) for name, value in found.items()}


def decode_sums(payload: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check serialised sums against what must come, and return them.

    Args:
        payload: Any bytes at all.
        like: Name → tensor of the shape and dtype that must come; integers of 64 bits may come as 32.

    Raises:
        UpdateError: If anything differs, or a value is not finite.
    """
    most = int(SLACK * sum(_sizes(like).values(), LONGEST_HEADER))
    if len(payload) > most:
        raise UpdateError(f"expected at most {most} bytes; found {len(payload)}", "too large")
    return _tensors(payload, like)


def decode_adapter(payload: bytes, block_of: Mapping[str, int | None]) -> Adapter:
    """Read back an adapter that ``encode_tensors`` wrote, at the client.

    Raises:
        UpdateError: If it is none of this model.
    """
    try:
        tensors = safetensors.torch.load(payload)
        return Adapter({}, {name: block_of[name] for name in tensors if name in block_of}).with_tensors(tensors)
    except Exception as error:  # as in decode_task
        raise UpdateError(f"expected an adapter for this model; {short(str(error))}", "malformed") from error


def decode_task(payload: bytes, client: int, block_of: Mapping[str, int | None]) -> Task:
    """Read back what ``encode_task`` wrote, at the client.

    Args:
        payload: From the server.
        client: Whose task it is.
        block_of: Of the client's model.

    Raises:
        UpdateError: If it is no task for this model.
    """
    try:
        header, end = json.JSONDecoder().raw_decode(payload[:LONGEST_TASK_HEADER].decode("latin-1"))
        tensors = safetensors.torch.load(payload[end:])
        lists = {key: tuple(header[key]) for key in ("blocks", "policies", "components", "absent") if key in header}
        allocation = Allocation(**lists, factors=header.get("factors", "AB"), head=header.get("head", True))
        values = {name: value for name, value in tensors.items() if not name.startswith(CORRECTION)}
        known = {name: block_of[name] for name in values if name in block_of}
        adapter = Adapter({}, known).with_tensors(values)
        correction = {name.removeprefix(CORRECTION): value for name, value in tensors.items() if name not in values}
        _check_correction(correction, adapter, allocation)
        return Task(client, int(header["round"]), allocation, adapter, correction=correction)
    except Exception as error:  # the server's word is taken for what to train, not for being well-formed
        raise UpdateError(f"expected a task for this model; {short(str(error))}", "malformed") from error


def _check_correction(correction: Mapping[str, Tensor], adapter: Adapter, allocation: Allocation) -> None:
    trained = adapter.names(allocation)
    for name, value in correction.items():
        if name not in trained or value.shape != adapter.tensors[name].shape or not bool(value.isfinite().all()):
            raise ValueError(f"a correction of {name} that is none of a tensor that trains")


def _tensors(body: bytes, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    _check_names(body, expected)
    try:
        tensors = safetensors.torch.load(body)
    except Exception as error:  # the library names no class for what it raises on bytes that are no tensors
        raise UpdateError(f"expected safetensors; {short(str(error))}", "malformed") from error
    check_values(tensors, expected)
    return tensors


def _check_names(body: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Check the names in the header of safetensors, which its own reader would accept twice."""
    length = _LENGTH.unpack_from(body)[0] if len(body) >= _LENGTH.size else -1
    if not 0 <= length <= len(body) - _LENGTH.size:
        raise UpdateError(f"expected safetensors; their header claims {length} bytes", "malformed")
    most = int(SLACK * sum((_entry_size(n, v, len(body)) for n, v in tensors.items()), LONGEST_HEADER))
    if length > most:
        raise UpdateError(f"expected a header of at most {most} bytes; found {length}", "malformed")
    found = _json(body[_LENGTH.size : _LENGTH.size + length])
    check_names(found.keys(), tensors)
