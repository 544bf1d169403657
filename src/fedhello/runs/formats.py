"""Formats of a run's files: one writer and one reader for each value, with the names used in the files.

    rounds.jsonl    one line per attempt at a round   ``write_round``, ``read_round``
    clients.json    the clients                       ``write_clients``, ``read_clients``
    clients.npz     many clients                      ``fedhello.runs.client_columns``
    data.json       digests of the data               ``write_data``, ``read_data``

``summary.json`` is in ``fedhello.runs.summary.Summary``, checkpoints are in ``fedhello.runs.checkpoint.Checkpoint``,
updates and tasks in ``fedhello.engine.wire``. Fields may be renamed in the code; names in files do not change.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedhello.data.digest import DataDigest
from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord
from fedhello.session import ClientEntry
from fedhello.state import ClientReport, RoundReport
from fedhello.types import Rejection

ROUND = 1
"""Format of a line of ``rounds.jsonl``; it rises with changes that earlier versions cannot read. 0.1.0 has none."""

CLIENTS = 2
"""Format of ``clients.json``; 0.1.0 writes only the list, which is format 1."""

DATA = 1
"""Format of ``data.json``; 0.1.0 has no such file."""

JSON = dict[str, Any]


def write_evaluation(score: Evaluation) -> JSON:
    """Return scores as they are in files."""
    return {"accuracy": score.accuracy, "loss": score.loss, "samples": score.samples, "more": dict(score.more)}


def read_evaluation(values: Any) -> Evaluation:
    """Return scores read from a file.

    Raises:
        ValidationError: If the values are not scores.
    """
    return TypeAdapter(Evaluation).validate_python(_known(values, "accuracy", "loss", "samples", "more"))


def write_head(change: HeadChange) -> JSON:
    """Return a change of the head as it is in files; ``noise`` and ``most`` only where there are such."""
    values: JSON = {
        "clients": change.clients,
        "samples": change.samples,
        "bytes_up": change.bytes_up,
        "bytes_down": change.bytes_down,
        "shrinkage": change.shrinkage,
        "temperature": change.temperature,
        "loss": change.loss,
        "adopted": change.adopted,
        "left_out": change.left_out,
        "loss_before": change.loss_before,
    }
    more = {"noise": change.noise, "most": change.most}
    return values | {key: value for key, value in more.items() if value is not None}


HEAD_KEYS = tuple(write_head(HeadChange(0, 0, 0, 0, noise=1.0, most=1)))


def read_head(values: Any) -> HeadChange:
    """Return a change of the head read from a file.

    Raises:
        ValidationError: If the values are not a change of the head.
    """
    return TypeAdapter(HeadChange).validate_python(_known(values, *HEAD_KEYS))


def write_round(record: RoundRecord) -> JSON:
    """Return an attempt at a round as a line of ``rounds.jsonl``."""
    report = record.report
    return {
        "format": ROUND,
        "round": report.round,
        "clients": [_write_client(client) for client in report.clients],
        "contributors": list(report.contributors),
        "scores": None if report.scores is None else list(report.scores),
        "scored": report.scored,
        "over_budget": list(report.over_budget),
        "rejections": [_write_rejection(rejection) for rejection in report.rejections],
        "failed": report.failed,
        "attempt": report.attempt,
        "flags": list(report.flags),
        "score_bytes_down": report.score_bytes_down,
        "score_bytes_up": report.score_bytes_up,
        "step": report.step,
        "summed_train_loss": report.train_loss,
        "train_loss": record.train_loss,
        "validation": None if record.validation is None else write_evaluation(record.validation),
        "test": None if record.test is None else write_evaluation(record.test),
        "seconds": record.seconds,
        "evaluation_seconds": record.evaluation_seconds,
        "head": None if record.head is None else write_head(record.head),
        "selected": record.selected,
    }


OF_THE_REPORT = (
    "round", "clients", "contributors", "scores", "scored", "over_budget", "rejections", "failed", "attempt", "flags",
    "score_bytes_down", "score_bytes_up", "step",
)  # fmt: skip
"""Keys of a line that belong to ``RoundReport``."""

OF_THE_RECORD = ("train_loss", "seconds", "evaluation_seconds", "selected")
"""Keys of a line that are numbers of ``RoundRecord``."""


def read_round(line: str, where: str) -> RoundRecord:
    """Return the record in a line of ``rounds.jsonl``.

    Args:
        line: JSON.
        where: The line's name, for messages.

    Raises:
        RunFolderError: If it is not a round's record, or a later version of fedhello wrote it in a newer format.
    """
    try:
        entry = json.loads(line)
        _check_format(entry, ROUND, "a round", where)
        parts = _known(entry, *OF_THE_REPORT) | {"train_loss": entry.get("summed_train_loss")}
        report = TypeAdapter(RoundReport).validate_python(parts)
        scores = {part: read_evaluation(entry[part]) if entry.get(part) else None for part in ("validation", "test")}
        head = read_head(entry["head"]) if entry.get("head") else None
        numbers = _known(entry, *OF_THE_RECORD)
        values = {"report": report, "head": head, **scores, **numbers}
        return TypeAdapter(RoundRecord).validate_python(values)
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise RunFolderError(f"expected a round in {where}; {' '.join(str(error).split())[:200]}") from error


def _write_client(client: ClientReport) -> JSON:
    return {
        "client": client.client,
        "tier": client.tier,
        "blocks": list(client.blocks),
        "policies": list(client.policies),
        "samples": client.samples,
        "metrics": dict(client.metrics),
        "bytes_down": client.bytes_down,
        "bytes_up": client.bytes_up,
        "ranks": list(client.ranks),
    }


def _write_rejection(rejection: Rejection) -> JSON:
    return {
        "client": rejection.client,
        "round": rejection.round,
        "reason": rejection.reason,
        "detail": rejection.detail,
        "bytes_down": rejection.bytes_down,
        "bytes_up": rejection.bytes_up,
    }


def write_clients(entries: Sequence[ClientEntry]) -> JSON:
    """Return the clients as the content of ``clients.json``."""
    rows = []
    for entry in entries:
        labels = dict(entry.labels) if isinstance(entry.labels, Mapping) else list(entry.labels)
        row: JSON = {"client": entry.client, "tier": entry.tier, "samples": entry.samples, "labels": labels}
        rows.append(row if entry.facts is None else row | {"facts": dict(entry.facts)})
    return {"format": CLIENTS, "clients": rows}


def read_clients(text: str, where: str) -> tuple[ClientEntry, ...]:
    """Return the clients in the content of ``clients.json``, in ascending id.

    Args:
        text: JSON.
        where: The file's name, for messages.

    Raises:
        RunFolderError: If it is not a list of clients, or a later version of fedhello wrote it in a newer format.
    """
    try:
        found = json.loads(text)
        rows = found if isinstance(found, list) else found["clients"]
        if isinstance(found, dict):
            _check_format(found, CLIENTS, "clients", where)
        keys = ("client", "tier", "samples", "labels", "facts")
        return tuple(TypeAdapter(ClientEntry).validate_python(_known(row, *keys)) for row in rows)
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise RunFolderError(f"expected the list of clients in {where}; {said}") from error


def write_data(data: DataDigest, changes: Sequence[int] = ()) -> JSON:
    """Return the digest of a run's data as the content of ``data.json``.

    Args:
        data: The digest.
        changes: After how many rounds the run went on with other data, each time.
    """
    parts = {name: {"samples": part.samples, "sha256": part.sha256} for name, part in data.parts.items()}
    values: JSON = {"format": DATA, "labels": list(data.labels), "parts": parts, "processor": data.processor}
    return values | {"changes": list(changes)}


def read_data(text: str, where: str) -> tuple[DataDigest, tuple[int, ...]]:
    """Return the digest in the content of ``data.json``, and after how many rounds the data changed.

    Args:
        text: JSON.
        where: The file's name, for messages.

    Raises:
        RunFolderError: If it is no such digest, or a later version of fedhello wrote it in a newer format.
    """
    try:
        found = json.loads(text)
        _check_format(found, DATA, "digests of data", where)
        parts = {name: _known(part, "samples", "sha256") for name, part in found["parts"].items()}
        values = {"labels": found["labels"], "parts": parts, "processor": found.get("processor", "")}
        data = TypeAdapter(DataDigest).validate_python(values)
        return data, TypeAdapter(tuple[int, ...]).validate_python(found["changes"])
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise RunFolderError(f"expected digests of data in {where}; {' '.join(str(error).split())[:200]}") from error


def _known(values: Any, *names: str) -> JSON:
    """Return the values of the known names; unknown names come from later versions and are ignored."""
    return {name: values[name] for name in names if name in values}


def _check_format(values: Mapping[str, Any], known: int, what: str, where: str) -> None:
    written = values.get("format", 1)
    if not isinstance(written, int) or written > known:
        raise ValueError(f"it holds {what} of format {written!r}; this version of fedhello reads {known} or earlier")
