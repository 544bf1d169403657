"""Messages about a run's head: how it was solved, and the costs of its statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch

from fedhello.engine.wire import encode_tensors
from fedhello.formatting import human_bytes
from fedhello.model.head import HeadSettings
from fedhello.model.statistics import UNIT, Moments, like
from fedhello.runs.heads import HeadChange
from fedhello.session import Session

SKETCHES = (64, 128, 256)
"""Sizes of sketches whose costs are shown for comparison."""

WIDEST: Final = 2**31
"""Values from this on take 64 bits."""


def head_line(change: HeadChange, head: HeadSettings, least: int, rounds: int = 0) -> str:
    """Return one line about a change of the head.

    Args:
        change: The change.
        head: The settings of the head.
        least: The least number of samples of a class on a client that are not left out.
        rounds: The number of rounds before it; 0 at the start.
    """
    whose = f"{change.clients} clients" if change.clients else "the server"
    what = f"{change.samples:,.0f} samples" if change.noise is None else f"the sums, with noise σ={change.noise:.3g},"
    parts = [f"{'' if head.policy == 'prototypes' else 'solved '}from {what} of {whose}"]
    if change.left_out:
        parts.append(f"{change.left_out:,} samples left out by clients with few of their class (model.least={least})")
    if change.most is not None:
        parts.append(
            f"each client counts as {change.most:,} samples at most, the median, since with more the head is surely "
            "worse on the validation data"
        )
    if change.shrinkage is not None:
        parts.append(
            f"solver {head.solver}, shrinkage {change.shrinkage:g}, temperature {change.temperature:.3g}, "
            f"−log p {'not finite' if change.loss is None else f'{change.loss:.3f}'} on validation"
        )
    if change.loss_before is not None:
        before = f"that of the earlier model, {change.loss_before:.3f},"
        parts.append(f"adopted: {before} is more" if change.adopted else f"not adopted: {before} is not surely more")
    elif not change.adopted:
        parts.append("for later rounds: at the start the head is that of model.adapter")
    when = f" after round {rounds}" if rounds else ""
    name = "prototypes" if head.policy == "prototypes" else "head"
    return f"{name}{when}: {'; '.join(parts)}"


@dataclass(frozen=True)
class StatisticsCosts:
    """The upload of the sums for a solved head, by kind of moments.

    Attributes:
        chosen: The kind of moments of the run.
        bytes: Kind → bytes that a client of mean size sends once.
    """

    chosen: str
    bytes: Mapping[str, int]

    def __str__(self) -> str:
        """Return one line that lists the bytes by kind."""
        listed = (
            f"{kind} {human_bytes(size)}" + (" (chosen)" if kind == self.chosen else "")
            for kind, size in self.bytes.items()
        )
        return f"for the head every client sends sums once; bytes by model.moments: {', '.join(listed)}"


def statistics_costs(session: Session) -> StatisticsCosts | None:
    """Return the upload of head statistics by kind of moments; None if no client sends any.

    The bytes are those of 32-bit integers, or of 64-bit integers for a sketch whose trace, n‖x‖² with ‖x‖ = 1, does not
    fit 32 bits. Other sums that do not fit are not predicted.
    """
    if session.head.policy not in ("solved", "prototypes") or session.row.server_alone:
        return None
    chosen = session.statistics.moments
    kinds = [Moments("full"), Moments("diagonal"), *(Moments("sketch", m) for m in SKETCHES), Moments("means")]
    if chosen.kind == "sketch" and chosen.size not in SKETCHES:
        kinds.append(replace(chosen, seed=0))
    return StatisticsCosts(_name(chosen), {_name(kind): _bytes(session, kind) for kind in kinds})


def _name(moments: Moments) -> str:
    return f"sketch {moments.size}" if moments.kind == "sketch" else moments.kind


def _bytes(session: Session, moments: Moments) -> int:
    """Return the bytes that a client of mean size sends."""
    model, samples = session.model, session.histogram.sum() / max(1, len(session.histogram))
    wide = moments.kind == "sketch" and samples / UNIT**2 >= WIDEST
    shapes = like(model.num_labels, model.logits_layer.in_features, moments)
    widths = {name: torch.int64 if wide and name == "moments" else torch.int32 for name in shapes}
    return len(encode_tensors({name: torch.zeros(t.shape, dtype=widths[name]) for name, t in shapes.items()}))
