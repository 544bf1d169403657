"""Predict the costs of a training step without training: calibrate once on tiny batches, then add up.

A block's saved bytes, temporary bytes and FLOPs depend on its policy and its role. For b samples of T tokens each of
them is

    c + γ·b + α·bT + β·bT² + κ·T + σ·T² + λ·n

with the constant c (weights cast to another type), what a sample takes whatever its length (γ: DeBERTa's projected
positions), attention's terms (β per sample, σ where samples share it), and what a position takes once for all samples
(κ). n is the number of tokens with a label, of a language model, whose logits are over a vocabulary. A few small
batches determine the coefficients, and ``fedhello.allocation.planner`` adds the costs up for an allocation. No
allocation is tried out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property

import numpy as np

from fedhello.allocation.needs import needs
from fedhello.costs import ActivationPolicy, Costs, Role
from fedhello.data.batches import WINDOW
from fedhello.types import Allocation, Update

POLICIES: tuple[ActivationPolicy, ...] = ("keep", "recompute", "compress")
"""The policies of steps with a backward pass."""
Kind = tuple[ActivationPolicy, Role]
Shape = tuple[int, ...]
"""A batch: samples × tokens; of a language model also how many tokens have a label, where it is known."""

MeanShape = tuple[float, ...]
"""The mean shape of several batches."""


def labelled(shape: MeanShape, answer: int | None) -> MeanShape:
    """Return a shape with its number of labelled tokens: if it is not known, the most possible.

    Args:
        shape: The batch.
        answer: Of a language model, the tokens of the longest response; None for other models.
    """
    b, T, *known = shape
    return shape if answer is None or known else (b, T, b * min(answer, T - 1))


@dataclass(frozen=True)
class Growth:
    """A quantity as a function of the batch: c + γ·b + α·bT + β·bT² + κ·T + σ·T² + λ·n."""

    constant: float
    per_sample: float
    linear: float
    quadratic: float
    per_position: float = 0.0
    per_pair: float = 0.0
    per_label: float = 0.0

    def at(self, shapes: Sequence[MeanShape], counts: Sequence[int] = ()) -> int:
        """Return the sum over batches of b samples of T tokens; ``counts``: how many have each shape, else one."""
        return self.of(_terms(shapes, counts))

    def times(self, factor: int) -> "Growth":
        """Return a multiple."""
        return Growth(*(factor * self.coefficients).tolist())

    def of(self, terms: np.ndarray) -> int:
        """Return the sum, given that of the batches' terms."""
        return max(0, round(float(terms @ self.coefficients)))

    @cached_property
    def coefficients(self) -> np.ndarray:
        """The coefficients, shape (7,)."""
        return np.array(astuple(self))

    @staticmethod
    def through(shapes: Sequence[Shape], values: Sequence[float]) -> "Growth":
        """Return the fit to calibration batches; if it is not unique, the one with the smallest coefficients.

        Args:
            shapes: Different batches.
            values: One per batch.
        """
        return Growth(*_fit(shapes, np.array(values, dtype=np.float64)[:, None])[:, 0].tolist())


NOTHING = Growth(0.0, 0.0, 0.0, 0.0)


def _basis(shapes: Sequence[MeanShape]) -> np.ndarray:
    """Return the terms of each batch, shape (batches, 7)."""
    filled = np.array([(*shape, 0.0)[:3] for shape in shapes], dtype=np.float64).reshape(-1, 3)
    b, T, n = filled.T
    return np.stack([np.ones_like(b), b, b * T, b * T**2, T, T**2, n], axis=1)


def _terms(shapes: Sequence[MeanShape], counts: Sequence[int] = ()) -> np.ndarray:
    """Return the sum of the batches' terms, shape (7,)."""
    weights = np.array(counts, dtype=np.float64) if len(counts) else np.ones(len(shapes))
    total: np.ndarray = weights @ _basis(shapes)
    return total


def _fit(shapes: Sequence[Shape], values: np.ndarray) -> np.ndarray:
    """Return the coefficients, shape (7, m), of m quantities at the batches, shape (batches, m)."""
    system = _basis(shapes)
    used = system.any(axis=0)
    scale = system[:, used].max(axis=0)
    coefficients = np.zeros((system.shape[1], values.shape[1]))
    coefficients[used] = np.linalg.lstsq(system[:, used] / scale, values, rcond=None)[0] / scale[:, None]
    return coefficients


SIZES = tuple(2.0 ** (k / 2) for k in range(25))
"""Samples and tokens of the batches at which the largest of several quantities is looked for."""


@dataclass(frozen=True)
class Peak:
    """The largest of several quantities: the moment of the peak may differ between small and large batches.

    Attributes:
        pieces: The quantities.
        answer: Of a language model, the tokens of the longest response, assumed where labels are not counted.
    """

    pieces: tuple[Growth, ...]
    answer: int | None = None

    def at(self, shapes: Sequence[MeanShape]) -> int:
        """Return the largest of the sums over batches."""
        return self.of(_terms([labelled(shape, self.answer) for shape in shapes]))

    def of(self, terms: np.ndarray) -> int:
        """Return the largest of the sums, given that of the batches' terms."""
        return round(float((self.coefficients @ terms).max()))

    @cached_property
    def coefficients(self) -> np.ndarray:
        """The coefficients of each quantity, shape (quantities, 7)."""
        return np.stack([piece.coefficients for piece in self.pieces])

    @staticmethod
    def through(shapes: Sequence[Shape], moments: Sequence[Sequence[float]]) -> "Peak":
        """Return the peak of a quantity that is measured moment by moment at each of some calibration batches.

        Args:
            shapes: Different batches.
            moments: The quantity at each moment, as many moments for every batch.
        """
        fits = np.unique(np.round(_fit(shapes, np.array(moments, dtype=np.float64)), 6), axis=1)
        tokens = SIZES if any(T != 1 for _, T, *_ in shapes) else (1.0,)
        grid = [
            (b, T, b * T * part)
            for b in SIZES
            for T in tokens
            for part in (0.0, 0.2, 1.0)[: 1 + 2 * len(shapes[0][2:])]
        ]
        largest = np.unique((_basis(grid) @ fits).argmax(axis=1))
        return Peak(tuple(Growth(*fits[:, i].tolist()) for i in largest))


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
        transient_loss: Temporary bytes before any block's backward.
        update: Temporary bytes of the optimiser's step.
        update_head_only: The same if no block trains.
        answer: Of a language model, the tokens of the longest response, assumed where labels are not counted.
        single: The costs of a batch of one sample, if they differ.
        window: Tokens that attention sees at most; a longer sample needs a mask, like padded ones, though it is single.
        error: Predicted over measured peak, minus 1, of a step on a larger batch than those of the calibration.
        below: Bytes that stay alive in forward if the first block does not train.
        below_each: The same for each further block below the lowest.
        left: Bytes that a block above the lowest leaves alive in forward but does not hold, by policy and role.
        margin: Bytes that a step in which some block has a policy took beyond the others, at the most.
        shortfall: Their largest share of a predicted peak, by policy.
        surplus: The most by which a small batch is predicted too high, as a share of its measured peak, by policy.
        forward_flops: FLOPs of a block's forward pass.
        passes: How often a step passes the blocks, which ``forward_flops`` counts all.
        forward: Whether blocks train without backward.
        part: Returns how many of b samples pass the model at once without backward.
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
    transient_loss: Peak = Peak((NOTHING,))
    update: int = 0
    update_head_only: int = 0
    answer: int | None = None
    error: float = 0.0
    single: "StepCosts | None" = None
    window: int | None = None
    below: Growth = NOTHING
    below_each: Growth = NOTHING
    left: Mapping[Kind, Growth] = field(default_factory=dict)
    margin: Mapping[ActivationPolicy, int] = field(default_factory=dict)
    shortfall: Mapping[ActivationPolicy, float] = field(default_factory=dict)
    surplus: Mapping[ActivationPolicy, float] = field(default_factory=dict)
    forward_flops: Growth = NOTHING
    passes: int = 1
    forward: bool = False
    part: Callable[[int], int] | None = None

    def at(self, widest: Shape, batches: Sequence[MeanShape] = (), counts: Sequence[int] = ()) -> Costs:
        """Return the costs on given data: bytes of the widest batch, FLOPs of all batches of a round.

        Args:
            widest: The shape of the widest batch.
            batches: The shapes of a round's batches.
            counts: How many batches have each of these shapes; one if not given.
        """
        widest = tuple(map(int, labelled(widest, self.answer)))
        whole, everything = _terms([widest]), _terms([labelled(batch, self.answer) for batch in batches], counts)
        if self.part is not None:
            b, T, *n = widest
            widest = (self.part(b), T, *n)
        step = _terms([widest])

        def in_step(parts: Mapping[Kind, Growth] | Mapping[Kind, Peak]) -> dict[Kind, int]:
            return {kind: growth.of(step) for kind, growth in parts.items()}

        alone = widest[0] == 1 and (self.window is None or widest[1] <= self.window)
        fits = self.single if self.single is not None and alone else self
        return Costs(
            saved=in_step(fits.saved),
            transient=in_step(fits.transient),
            outside=fits.outside.of(step),
            outside_head_only=fits.outside_head_only.of(whole),
            head_only_peak=fits.head_only_peak.of(whole if self.head_bytes else step),
            flops={kind: growth.of(everything) for kind, growth in self.flops.items()},
            flops_outside=self.flops_outside.of(everything),
            block_bytes=self.block_bytes,
            reserve=self.reserve,
            head_bytes=self.head_bytes,
            head_shared=self.head_shared,
            moments=self.moments,
            block_upload=self.block_upload or (0,) * len(self.block_bytes),
            fixed_upload=self.fixed_upload,
            rank=self.rank,
            copies=self.copies,
            transient_loss=fits.transient_loss.of(step),
            update=self.update,
            update_head_only=self.update_head_only,
            below=fits.below.of(step),
            below_each=fits.below_each.of(step),
            left=in_step(fits.left),
            margin=self.margin,
            forward_flops=self.forward_flops.of(everything),
            passes=self.passes,
            forward=self.forward,
        )


def batch_shapes(
    lengths: np.ndarray, batch_size: int, epochs: int, answers: np.ndarray | None = None
) -> tuple[Shape, list[Shape]]:
    """Return the shape of a client's widest batch, and the expected shapes of all its batches in a round.

    Args:
        lengths: Tokens of each of the client's samples, shape (n,).
        batch_size: Largest batch.
        epochs: Passes per round.
        answers: Of a language model, the tokens of each sample's response, shape (n,).
    """
    order = np.argsort(lengths, kind="stable")
    parts = np.array_split(order, -(-len(order) // batch_size))
    # With more than a window of samples, batches are full; see ``training_batches``.
    samples = batch_size if len(order) > WINDOW * batch_size else len(parts[0])
    longest = int(lengths[order[-1]])
    batches: list[Shape] = [(len(part), int(lengths[part[-1]])) for part in parts]
    if answers is None:
        return (samples, longest), batches * epochs
    most = int(np.sort(answers)[-samples:].sum())
    counted: list[Shape] = [(*batch, int(answers[part].sum())) for part, batch in zip(parts, batches, strict=True)]
    return (samples, longest, most), counted * epochs


def predicted(update: Update, allocation: Allocation, costs: StepCosts | None) -> Update:
    """Return an update with the predicted costs of its widest step and of its round added to its metrics.

    The server computes them itself. FLOPs are those of the same number of steps on batches of the round's mean shape;
    a client with kept activations says how often its blocks below ran.
    """
    if costs is None:
        return update
    # A client's metrics are not trusted: these are at least one.
    steps, samples = (max(1.0, update.metrics[name]) for name in ("steps", "samples"))
    sizes = ("widest_samples", "widest_tokens", "widest_labels")
    shape = tuple(int(update.metrics[size]) for size in sizes if size in update.metrics)
    mean = samples / steps, update.metrics["tokens"] / samples
    at = costs.at(shape, [mean])
    if "passes_below" in update.metrics:
        at = at.with_kept_activations(min(1.0, update.metrics["passes_below"] * update.metrics["batches"] / steps))
    found = needs(at, allocation, first_step=steps == 1)
    more = {
        "predicted_saved_bytes": found.saved_bytes,
        "predicted_peak_bytes": found.peak_bytes,
        "predicted_memory_bytes": found.memory_bytes,
        "flops": steps * found.flops,
    }
    return replace(update, metrics={**update.metrics, **more})
