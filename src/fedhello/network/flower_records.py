"""The records between a user's own Flower apps and fedhello's strategy, and the conversion of arrays to tensors.

    record        in a message                              in its reply
    arrays        what the client starts from               the allocated tensors, and nothing else
    config        the user's own                            –
    fedhello      client, round, blocks, components,        –
                  factors, absent, head, weights
    metrics       –                                         the user's own, with the sample count

The user can choose other names for arrays, config and metrics, as in Flower's FedAvg.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from torch import Tensor

from fedhello.client.scoring import BlockSums
from fedhello.engine.headers import as_components
from fedhello.engine.scores import read_block_sums
from fedhello.engine.tensors import check_bounds, check_names, check_values, short
from fedhello.engine.wire import MOST_SAMPLES
from fedhello.errors import EngineError, ModelError, UpdateError
from fedhello.model.adapter import LoraModel
from fedhello.network.messages import one_line
from fedhello.notes import logger
from fedhello.types import MERGED, MERGED_A, MERGED_B, Adapter, Allocation, Federation, Reason, Task

RECORD = "fedhello"
"""The record that fedhello adds to a message; under ``fedhello server`` it is the only one."""

JOIN, SCORE = "fedhello", "fedhello_score"
"""Actions of queries: a node's name and budget, and its sums for Fisher scores."""

REASONS: dict[int, Reason] = {
    ErrorCode.MESSAGE_UNAVAILABLE: "lost",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "late",
    ErrorCode.NODE_UNAVAILABLE: "lost",
    ErrorCode.CLIENT_APP_CRASHED: "lost",
}
"""Flower's error codes → reasons; all others mean that the client's code failed."""

PRODUCTS = (MERGED, MERGED_A, MERGED_B)
"""Endings of the names of merged products; a model has such tensors only after merging."""

NPY_HEADER = 4096
"""The most bytes of an array beyond its values."""


@dataclass(frozen=True)
class Asked:
    """A round between its two halves.

    Attributes:
        federation: Who could be asked.
        tasks: Client → what it was asked.
        messages: Client → the message, which has its id once it is sent.
        scores: Γ, if there is one.
    """

    federation: Federation
    tasks: Mapping[int, Task]
    messages: Mapping[int, Message]
    scores: tuple[float, ...] | None

    def client_of(self, reply: Message) -> int | None:
        """Return whom a reply is from: error replies that the SuperLink makes come from a node of its own."""
        about, source = reply.metadata.reply_to_message_id, reply.metadata.src_node_id
        by_id = (
            k for k, sent in self.messages.items() if sent.metadata.message_id and sent.metadata.message_id == about
        )
        by_node = (k for k, sent in self.messages.items() if sent.metadata.dst_node_id == source)
        return next(by_id, None if about else next(by_node, None))


def as_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors as Flower's arrays, sorted by name."""
    return ArrayRecord({name: Array(tensors[name].detach().cpu().contiguous().numpy()) for name in sorted(tensors)})


def as_tensors(arrays: ArrayRecord) -> dict[str, Tensor]:
    """Return the arrays of a trusted server as tensors."""
    return {name: torch.from_numpy(array.numpy()) for name, array in arrays.items()}


def read_tensors(content: RecordDict, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arrays of a client's reply as tensors, after checking them.

    Args:
        content: Of the reply.
        expected: Name → tensor of the shape and dtype that must come.

    Raises:
        UpdateError: If anything differs.
    """
    if len(content.array_records) != 1:
        raise UpdateError(f"expected one ArrayRecord; found {len(content.array_records)}", "malformed")
    (arrays,) = content.array_records.values()
    check_names(arrays.keys(), expected)
    for name, array in arrays.items():
        most = expected[name].nbytes + NPY_HEADER
        if len(array.data) > most:
            raise UpdateError(f"expected at most {most} bytes of {name!r}; found {len(array.data)}", "too large")
    try:
        tensors = as_tensors(arrays)
    except Exception as error:  # NumPy does not document its exceptions for malformed bytes
        raise UpdateError(f"expected arrays of numbers; {short(str(error))}", "malformed") from error
    check_values(tensors, expected)
    check_bounds(tensors)
    return tensors


def bytes_of(content: RecordDict) -> int:
    """Return the bytes of the arrays of a message."""
    return sum(len(array.data) for arrays in content.array_records.values() for array in arrays.values())


def adapter_of(model: LoraModel, arrays: ArrayRecord) -> Adapter:
    """Return the adapter in arrays, of any rank, with merged products.

    Raises:
        ModelError: If they are not an adapter of this model.
    """
    tensors = as_tensors(arrays)
    odd = model.misfits({name: value for name, value in tensors.items() if not name.endswith(PRODUCTS)})
    if odd:
        name, (expected, found) = next(iter(odd.items()))
        raise ModelError(
            f"expected the arrays of an adapter of {model.source.base_name}; {len(odd)} differ, the first is {name}: "
            f"expected shape {expected}, found {found}. Make them with fedhello.flower.arrays(model)."
        )
    return Adapter({}, {name: model.block_of[name] for name in tensors if name in model.block_of}).with_tensors(tensors)


def describe_task(task: Task, weights: str) -> ConfigRecord:
    """Return a task as a record; the tensors of the task are sent as arrays.

    Args:
        task: The task.
        weights: The digest of the server's frozen weights.
    """
    allocation = task.allocation
    return ConfigRecord(
        {
            "client": task.client,
            "round": task.round,
            "blocks": list(allocation.blocks),
            "components": json.dumps(allocation.components),  # records hold no lists of lists
            "factors": allocation.factors,
            "absent": list(allocation.absent),
            "head": allocation.head,
            "weights": weights,
        }
    )


def read_allocation(content: RecordDict) -> tuple[ConfigRecord, Allocation]:
    """Return the record of a message and its allocation.

    Raises:
        EngineError: If the message holds no allocation.
    """
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord) or "blocks" not in record:
        raise EngineError(
            "expected a message to train from fedhello.flower.FedHello; this one holds no allocation. Use it as the "
            "strategy of the ServerApp."
        )
    lists = {key: tuple(record[key]) for key in ("blocks", "absent")}  # type: ignore[arg-type]
    components = as_components(json.loads(str(record["components"])))
    rest = {"components": components, "factors": record["factors"], "head": record["head"]}
    return record, Allocation(**lists, **rest)  # type: ignore[arg-type]


def samples_of(content: RecordDict, key: str) -> int:
    """Return the sample count of a reply.

    Args:
        content: Of the reply, with one MetricRecord.
        key: Its name there.

    Raises:
        UpdateError: If it is not a sample count.
    """
    records = list(content.metric_records.values())
    found = records[0].get(key) if len(records) == 1 else None
    if not isinstance(found, (int, float)) or not 1 <= found <= MOST_SAMPLES or found != int(found):
        raise UpdateError(
            f"expected one MetricRecord with {key}, a whole number of at least 1; found {short(found)}", "wrong count"
        )
    return int(found)


def sums_of(reply: Message | None, L: int, most: int) -> BlockSums | str:
    """Return a client's contribution to the Fisher scores, or why there is none.

    Args:
        reply: To the query; None if there is none.
        L: The number of blocks.
        most: The most samples that it could use.
    """
    if reply is None or reply.has_error():
        return "there is no reply" if reply is None else one_line(reply.error.reason)
    record = reply.content.get(RECORD)
    payload = record.get("sums") if isinstance(record, ConfigRecord) else None
    if not isinstance(payload, bytes):
        return "expected its sums; found something else"
    try:
        return read_block_sums(payload, L, most)
    except UpdateError as error:
        return one_line(error)


def alike(contents: Sequence[RecordDict], key: str) -> list[RecordDict]:
    """Return the replies with the most common names of metrics that can be averaged; the others are logged.

    Flower stops a run if names differ.

    Args:
        contents: Of the replies.
        key: The metric that the others are weighted by.
    """
    names = [_metric_names(content, key) for content in contents]
    usual = Counter(found for found in names if found).most_common(1)
    kept = [content for content, found in zip(contents, names, strict=True) if usual and found == usual[0][0]]
    if len(kept) < len(contents):
        logger.warning("the metrics of %d of %d replies are left out", len(contents) - len(kept), len(contents))
    return kept


def _metric_names(content: RecordDict, key: str) -> tuple[tuple[str, int], ...]:
    """Return the names of a reply's metrics with their number of values; empty if they cannot be averaged."""
    records = list(content.metric_records.values())
    weight = records[0].get(key) if len(records) == 1 else None
    if not isinstance(weight, (int, float)) or not weight > 0:
        return ()
    values = {name: value if isinstance(value, list) else [value] for name, value in records[0].items()}
    if not all(math.isfinite(x) for found in values.values() for x in found):
        return ()
    return tuple(sorted((name, len(found)) for name, found in values.items()))
