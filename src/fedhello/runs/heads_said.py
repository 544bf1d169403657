"""What is said of a run's head: how it was solved, and what the statistics for it cost."""

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
"""Sizes of sketches whose cost is shown beside the chosen one."""

WIDEST: Final = 2**31
"""From where on a sum takes 64 bits."""


def head_line(change: HeadChange, head: HeadSettings, least: int, rounds: int = 0) -> str:
    """Say in one line how a head came about.

    Args:
        change: How.
        head: How the run's heads come about.
        least: How many samples of a class a client needs for them to count.
        rounds: After how many rounds; 0 before the first.
    """
    whose = f"{change.clients} clients" if change.clients else "the server"
    parts = [f"{'' if head.policy == 'prototypes' else 'solved '}from {change.samples:,.0f} samples of {whose}"]
    if change.left_out:
        parts.append(f"{change.left_out:,} samples left out by model.least={least}")
    if change.shrinkage is not None:
        parts.append(
            f"solver {head.solver}, shrinkage {change.shrinkage:g}, temperature {change.temperature:.3g}, "
            f"−log p {'not finite' if change.loss is None else f'{change.loss:.3f}'} on validation"
        )
    if change.loss_before is not None:
        before = f"that of the model before, {change.loss_before:.3f},"
        parts.append(f"adopted: {before} is more" if change.adopted else f"not adopted: {before} is not surely more")
    when = f" after round {rounds}" if rounds else ""
    name = "prototypes" if head.policy == "prototypes" else "head"
    return f"{name}{when}: {'; '.join(parts)}"


@dataclass(frozen=True)
class StatisticsCosts:
    """What the sums for a solved head take, by kind of moments.

    Attributes:
        chosen: The kind of the run.
        bytes: Kind → what a client of mean size sends, once.
    """

    chosen: str
    bytes: Mapping[str, int]

    def __str__(self) -> str:
        """Return a line for people."""
        listed = (
            f"{kind} {human_bytes(size)}" + (" (chosen)" if kind == self.chosen else "")
            for kind, size in self.bytes.items()
        )
        return f"for the head every client sends sums once, by model.moments: {', '.join(listed)}"


def statistics_costs(session: Session) -> StatisticsCosts | None:
    """Return what head statistics cost by kind of moments; None where no client sends any.

    The bytes are those of integers of 32 bits, but of a sketch of 64 where the trace of its moments, n‖x‖² with
    ‖x‖ = 1, does not fit. Other sums that do not fit take 64 bits, too.
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
    """Return what a client of mean size sends."""
    model, samples = session.model, session.histogram.sum() / max(1, len(session.histogram))
    wide = moments.kind == "sketch" and samples / UNIT**2 >= WIDEST
    shapes = like(model.num_labels, model.logits_layer.in_features, moments)
    widths = {name: torch.int64 if wide and name == "moments" else torch.int32 for name in shapes}
    return len(encode_tensors({name: torch.zeros(t.shape, dtype=widths[name]) for name, t in shapes.items()}))
