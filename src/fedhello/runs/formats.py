"""What a run's files hold: one writer and one reader for each value, under the names that stand in the files.

    rounds.jsonl    one line per attempt at a round   ``write_round``, ``read_round``
    clients.json    who takes part                    ``write_clients``, ``read_clients``

``summary.json`` is ``fedhello.runs.summary.Summary``, a checkpoint ``fedhello.runs.checkpoint.Checkpoint``, an update
and a task are those of ``fedhello.engine.wire``. Fields may be renamed in the code; names in files stay.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord
from fedhello.session import ClientEntry
from fedhello.state import ClientReport, RoundReport
from fedhello.types import Rejection

ROUND = 1
"""Format of a line of ``rounds.jsonl``; it rises whenever an earlier fedhello could not read it. 0.1.0 wrote none."""

CLIENTS = 2
"""Format of ``clients.json``; 0.1.0 wrote the list alone, which is format 1."""

JSON = dict[str, Any]


def write_evaluation(score: Evaluation) -> JSON:
    """Return scores as files hold them."""
    return {"accuracy": score.accuracy, "loss": score.loss, "samples": score.samples, "more": dict(score.more)}


def read_evaluation(values: Any) -> Evaluation:
    """Read scores back.

    Raises:
        ValidationError: If they are none.
    """
    return TypeAdapter(Evaluation).validate_python(_known(values, "accuracy", "loss", "samples", "more"))


def write_head(change: HeadChange) -> JSON:
    """Return how a head came about as files hold it."""
    return {
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


HEAD_KEYS = tuple(write_head(HeadChange(0, 0, 0, 0)))


def read_head(values: Any) -> HeadChange:
    """Read back how a head came about.

    Raises:
        ValidationError: If it is none.
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
"""Keys of a line that are of the algorithm's report."""

OF_THE_RECORD = ("train_loss", "seconds", "evaluation_seconds", "selected")
"""Keys of a line that are numbers of the record."""


def read_round(line: str, where: str) -> RoundRecord:
    """Read a line of ``rounds.jsonl`` back.

    Args:
        line: JSON.
        where: Names the line in errors.

    Raises:
        RunFolderError: If it is none of a round's, or a later fedhello wrote it in another format.
    """
    try:
        entry = json.loads(line)
        _check_format(entry, ROUND, "a round", where)
        report = TypeAdapter(RoundReport).validate_python(_known(entry, *OF_THE_REPORT))
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
    """Return who takes part as ``clients.json``."""
    rows = []
    for entry in entries:
        labels = dict(entry.labels) if isinstance(entry.labels, Mapping) else list(entry.labels)
        row: JSON = {"client": entry.client, "tier": entry.tier, "samples": entry.samples, "labels": labels}
        rows.append(row if entry.facts is None else row | {"facts": dict(entry.facts)})
    return {"format": CLIENTS, "clients": rows}


def read_clients(text: str, where: str) -> tuple[ClientEntry, ...]:
    """Read ``clients.json`` back, in ascending id.

    Args:
        text: JSON.
        where: Names the file in errors.

    Raises:
        RunFolderError: If it does not say who takes part, or a later fedhello wrote it in another format.
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
        raise RunFolderError(f"expected who takes part in {where}; {said}") from error


def _known(values: Any, *names: str) -> JSON:
    """Return what is there under some names; what else a file holds is of a later fedhello that it can do without."""
    return {name: values[name] for name in names if name in values}


def _check_format(values: Mapping[str, Any], known: int, what: str, where: str) -> None:
    written = values.get("format", 1)
    if not isinstance(written, int) or written > known:
        raise ValueError(f"it holds {what} of format {written!r}, and this fedhello reads {known} or earlier")
