"""Predict the costs of a training step without training: calibrate once on tiny batches, then add up.

A block's saved bytes, temporary bytes and FLOPs depend on its policy and its role. For b samples of T tokens each of
them is c + α·bT + β·bT², with the constant c (weights cast to another type) and attention's term β; outside the blocks
it is c + γ·b + α·bT. A few small batches determine the coefficients, and ``fedhello.allocation.planner`` adds the costs
up for an allocation. No allocation is tried out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from fedhello.allocation.needs import needs
from fedhello.costs import ActivationPolicy, Costs, Role
from fedhello.data.batches import WINDOW
from fedhello.types import Allocation, Update

POLICIES: tuple[ActivationPolicy, ...] = get_args(ActivationPolicy)
Kind = tuple[ActivationPolicy, Role]
Shape = tuple[int, int]
"""A batch: samples × tokens."""

MeanShape = tuple[float, float]
"""The mean shape of several batches."""


@dataclass(frozen=True)
class Growth:
    """A quantity as a function of the batch: c + γ·b + α·bT + β·bT²."""

    constant: float
    per_sample: float
    linear: float
    quadratic: float

    def at(self, shapes: Sequence[MeanShape], counts: Sequence[int] = ()) -> int:
        """Return the sum over batches of b samples of T tokens; ``counts``: how many have each shape, else one."""
        each = [self.constant + b * (self.per_sample + T * (self.linear + self.quadratic * T)) for b, T in shapes]
        return max(0, round(sum(n * one for n, one in zip(counts, each, strict=True)) if counts else sum(each)))

    @staticmethod
    def through(shapes: Sequence[Shape], values: Sequence[float], terms: str = "c α β") -> "Growth":
        """Return the fit to calibration batches; if it is not unique, the one with the smallest coefficients.

        Args:
            shapes: As many different batches as terms.
            values: One per batch.
            terms: Which of c, γ, α and β may differ from zero.
        """
        used = [term in terms.split() for term in "cγαβ"]
        system = np.array([[1.0, b, b * T, b * T**2] for b, T in shapes])[:, used]
        scale = system.max(axis=0)
        coefficients = np.zeros(4)
        coefficients[used] = np.linalg.lstsq(system / scale, np.array(values, dtype=np.float64))[0] / scale
        return Growth(*coefficients.tolist())


@dataclass(frozen=True)
class Peak:
    """The largest of several quantities: the moment of the peak may differ between small and large batches."""

    pieces: tuple[Growth, ...]

    def at(self, shapes: Sequence[MeanShape]) -> int:
        """Return the sum over batches."""
        return max(growth.at(shapes) for growth in self.pieces)

    @staticmethod
    def of(peaks: Iterable["Peak"]) -> "Peak":
        """Return the pointwise largest of several peaks."""
        return Peak(tuple(growth for peak in peaks for growth in peak.pieces))


@dataclass(frozen=True)
class StepCosts:
    """Costs of a model's training steps as functions of the batch shape; see ``fedhello.costs.Costs``.

    Attributes:
        saved: Bytes a block holds for backward.
        transient: Temporary bytes while a block's backward runs.
        outside: Bytes held outside the blocks.
        outside_head_only: Bytes held outside the blocks if no block trains.
        head_only_peak: Peak of a step that trains no block.
        flops: FLOPs a block adds beyond its forward pass.
        flops_outside: FLOPs of the forward pass, and of the head's backward.
        block_bytes: Per block, bytes of its LoRA factors.
        head_bytes: Bytes of the head that trains; 0 if it is frozen.
        reserve: Bytes kept free for memory outside tensors.
        head_shared: Whether the head is uploaded.
        moments: Number of values that the optimiser keeps between steps per trained value.
        block_upload: Per block, bytes on the wire.
        fixed_upload: Bytes on the wire without a block.
        rank: R, the rank that the bytes of blocks are for.
        copies: How many gradients of each trained value a step holds.
    """

    saved: Mapping[Kind, Growth]
    transient: Mapping[Kind, Peak]
    outside: Growth
    outside_head_only: Growth
    head_only_peak: Peak
    flops: Mapping[Kind, Growth]
    flops_outside: Growth
    block_bytes: tuple[int, ...]
    head_bytes: int
    reserve: int = 0
    head_shared: bool = True
    moments: int = 0
    block_upload: tuple[int, ...] = ()
    fixed_upload: int = 0
    rank: int = 1
    copies: int = 1

    def at(self, widest: Shape, batches: Sequence[MeanShape] = (), counts: Sequence[int] = ()) -> Costs:
        """Return the costs on given data: bytes of the widest batch, FLOPs of all batches of a round.

        Args:
            widest: The shape of the widest batch.
            batches: The shapes of a round's batches.
            counts: How many batches have each of these shapes; one if not given.
        """

        def in_step(parts: Mapping[Kind, Growth] | Mapping[Kind, Peak]) -> dict[Kind, int]:
            return {kind: growth.at([widest]) for kind, growth in parts.items()}

        return Costs(
            saved=in_step(self.saved),
            transient=in_step(self.transient),
            outside=self.outside.at([widest]),
            outside_head_only=self.outside_head_only.at([widest]),
            head_only_peak=self.head_only_peak.at([widest]),
            flops={kind: growth.at(batches, counts) for kind, growth in self.flops.items()},
            flops_outside=self.flops_outside.at(batches, counts),
            block_bytes=self.block_bytes,
            reserve=self.reserve,
            head_bytes=self.head_bytes,
            head_shared=self.head_shared,
            moments=self.moments,
            block_upload=self.block_upload or (0,) * len(self.block_bytes),
            fixed_upload=self.fixed_upload,
            rank=self.rank,
            copies=self.copies,
        )


def batch_shapes(lengths: np.ndarray, batch_size: int, epochs: int) -> tuple[Shape, list[Shape]]:
    """Return the shape of a client's widest batch, and the expected shapes of all its batches in a round.

    Args:
        lengths: Tokens of each of the client's samples, shape (n,).
        batch_size: Largest batch.
        epochs: Passes per round.
    """
    ordered = np.sort(lengths)
    parts = np.array_split(ordered, -(-len(ordered) // batch_size))
    # With more than a window of samples, batches are full; see ``training_batches``.
    widest = batch_size if len(ordered) > WINDOW * batch_size else len(parts[0])
    return (widest, int(ordered[-1])), [(len(part), int(part[-1])) for part in parts] * epochs


def predicted(update: Update, allocation: Allocation, costs: StepCosts | None) -> Update:
    """Return an update with the predicted costs of its widest step and of its round added to its metrics.

    The server computes them itself. FLOPs are those of the same number of steps on batches of the round's mean shape.
    """
    if costs is None:
        return update
    # A client's metrics are not trusted: these are at least one.
    steps, samples = (max(1.0, update.metrics[name]) for name in ("steps", "samples"))
    shape = int(update.metrics["widest_samples"]), int(update.metrics["widest_tokens"])
    mean = samples / steps, update.metrics["tokens"] / samples
    found = needs(costs.at(shape, [mean]), allocation, first_step=steps == 1)
    more = {
        "predicted_saved_bytes": found.saved_bytes,
        "predicted_peak_bytes": found.peak_bytes,
        "predicted_memory_bytes": found.memory_bytes,
        "flops": steps * found.flops,
    }
    return replace(update, metrics={**update.metrics, **more})
