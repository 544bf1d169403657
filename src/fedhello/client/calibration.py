"""Measure the costs of training steps: count bytes and FLOPs of a few passes over synthetic batches."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from fedhello.allocation.needs import needs
from fedhello.client.cost_model import NOTHING, POLICIES, Growth, Kind, Peak, Shape, StepCosts
from fedhello.client.forward_gradient import part_size
from fedhello.client.measured_step import MeasuredStep, Window, bytes_by_block, measure_step, run_step, shape_of
from fedhello.client.settings import TrainingSettings, moments, optimizer_copies
from fedhello.costs import DIRECTIONS, FORWARD, KEEP, ActivationPolicy, Role
from fedhello.data.batches import IGNORED, Batch
from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.probe import ended
from fedhello.types import Allocation

LONGEST = 96
"""Tokens per sample of the longest calibration batch, if the model's input may be that long."""


def calibrate(
    model: LoraModel,
    autocast: bool = False,
    policies: Collection[ActivationPolicy] = POLICIES,
    answer: int | None = None,
    train_head: bool = True,
) -> StepCosts:
    """Measure a model's blocks on small batches; its values and random state do not change.

    Every operation of a step creates the same tensors whatever the batch, only larger ones, so the bytes that are live
    at each moment are fitted over the batches, and the peak is that of the moment that is largest for a batch.

    Args:
        model: The model, with at least one block; it is left frozen and in training mode.
        autocast: Whether steps run in bf16 autocast.
        policies: The activation policies to measure, including ``keep``; or ``forward`` alone.
        answer: For a language model, the tokens of the longest response, assumed for every sample.
        train_head: Whether the head trains.
    """
    L, plain = model.blocks.count, FORWARD if FORWARD in policies else KEEP
    # Blocks differ only by their role, and by whether others run before them, so three blocks tell all.
    absent = range(2, L - 1)

    def steps(trained: Collection[int], policy: ActivationPolicy) -> _Steps:
        batches = calibration_batches(model, answer is not None, COMPRESSED if policy == "compress" else UNIT)
        with model.without_blocks(absent):
            return _Steps([measure_step(model, trained, policy, batch, autocast, train_head) for batch in batches])

    last = {policy: steps({L - 1}, policy) for policy in policies}
    ends = {policy: steps({0, L - 1}, policy) for policy in policies}
    between = {policy: steps({0}, policy) for policy in policies} if L == 2 else ends
    role_of: dict[Role, tuple[dict[ActivationPolicy, _Steps], int]] = {
        "lowest": (last, L - 1), "trained": (ends, L - 1), "frozen": (between, min(1, L - 1)),
    }  # fmt: skip
    kinds = {(policy, role): (runs[policy], l) for policy in policies for role, (runs, l) in role_of.items()}
    head_only = steps((), KEEP)
    second = steps({1, L - 1}, plain) if L > 2 else None
    # Where a frozen block leaves nothing alive, a trained one leaves nothing either.
    middle = {
        policy: steps({0, 1, L - 1}, policy) if L > 2 and runs.leave_alive(L - 1, 1) else runs
        for policy, runs in ends.items()
    }

    def fitted(some: Callable[[_Steps], _Steps]) -> StepCosts:
        below, below_each = NOTHING, NOTHING
        left: dict[Kind, Growth] = {(policy, "frozen"): NOTHING for policy in policies}
        if second is not None:
            below = some(second).more_alive(L - 1, some(ends[plain]), 1)
            below_each = some(last[plain]).more_alive(L - 1, some(second), 1)
            for policy in policies:
                left[policy, "frozen"] = some(ends[policy]).more_alive(L - 1, some(ends[policy]), 1)
                left[policy, "trained"] = some(middle[policy]).more_alive(L - 1, some(middle[policy]), 1)

        def transient(kind: Kind, runs: _Steps, l: int) -> Peak:
            # In the runs that tell of the lowest block there are two below it, in the others the second is frozen.
            alive = [below, below_each] if kind[1] == "lowest" else [left[kind[0], "frozen"]]
            return some(runs).with_more(-1, alive).peak([l])

        return StepCosts(
            below=below,
            below_each=below_each,
            left=left,
            saved={kind: some(runs).through(partial(_saved, l)) for kind, (runs, l) in kinds.items()},
            transient={kind: transient(kind, runs, l) for kind, (runs, l) in kinds.items()},
            outside=some(ends[plain]).through(lambda step: step.outside),
            outside_head_only=some(head_only).through(lambda step: step.outside),
            head_only_peak=some(head_only).with_more(len(absent), [below_each]).peak([*range(L), None], above=False),
            flops={kind: some(runs).more_flops(l, some(head_only)) for kind, (runs, l) in kinds.items()},
            flops_outside=some(head_only).through(lambda step: step.all_flops(len(absent))),
            forward_flops=some(head_only).through(lambda step: step.forward_flops[-1]),
            block_bytes=bytes_by_block(model),
            head_bytes=sum(value.nbytes for value in model.read(model.head_names).values()),
            transient_loss=some(ends[plain]).with_more(-1, [left[plain, "frozen"]]).peak([None]),
            answer=answer,
            forward=plain == FORWARD,
        )

    window = getattr(model.base.config, "sliding_window", None)
    costs = replace(fitted(_Steps.of_many), single=fitted(_Steps.of_one), window=window)
    error = _error(model, costs, autocast, train_head)
    margins = {policy: _margin(model, costs, policy, autocast, train_head) for policy in policies if policy != plain}
    return replace(
        costs,
        error=error,
        margin={policy: size for policy, (size, *_) in margins.items()},
        shortfall={policy: less for policy, (_, less, _) in margins.items()},
        surplus={policy: more for policy, (*_, more) in margins.items()},
    )


def with_optimizer(
    costs: StepCosts, model: LoraModel, settings: TrainingSettings, train_head: bool = True
) -> StepCosts:
    """Return costs with what the optimiser keeps between steps, and needs in a step.

    Args:
        costs: Of the model's steps.
        model: The model.
        settings: How clients train.
        train_head: Whether the head trains.
    """
    sizes = {name: value.nbytes for name, value in model.read(model.block_of).items()}
    copies = optimizer_copies(settings)

    def update(names: Collection[str]) -> int:
        # Of the tensor before, one copy is kept until this one's are made.
        own = [0, *(sizes[name] for name in sorted(names))]
        return max((before + copies * size for before, size in pairwise(own)), default=0) if copies else 0

    head = model.head_names if train_head else ()
    factors = [name for name, block in model.block_of.items() if block is not None]
    return replace(costs, moments=moments(settings), update=update([*head, *factors]), update_head_only=update(head))


def with_tangents(costs: StepCosts, tangents: int, train_head: bool) -> StepCosts:
    """Return the costs of steps along several directions, from those along one on a whole batch.

    Args:
        costs: With ``forward``.
        tangents: The number of directions.
        train_head: Whether the head trains: in a step of its own before.
    """
    return replace(
        costs,
        part=part_size,
        flops={kind: growth.times(tangents) for kind, growth in costs.flops.items()},
        flops_outside=costs.flops_outside.times(tangents + train_head),
        forward_flops=costs.forward_flops.times(tangents + train_head),
        passes=tangents + train_head,
    )


def check_calibrated(costs: StepCosts, model: LoraModel) -> None:
    """Check that the costs of larger batches follow from those of the calibration.

    Args:
        costs: Of the model's steps.
        model: The model.

    Raises:
        ModelError: If the prediction of a larger batch was off, so that no budget in bytes can be kept.
    """
    if not LOW <= costs.error <= HIGH:
        raise ModelError(
            f"expected the memory of {model.source.base_name} in training to follow from that of small batches, so "
            f"that budgets in memory, upload or seconds can be planned; of a larger batch the prediction is off by "
            f"{costs.error:+.0%}. Give clients.tiers blocks or a rank."
        )
    far = {
        policy: f"takes {share:.0%} more than predicted" for policy, share in costs.shortfall.items() if share > HIGH
    }
    far |= {policy: f"is predicted {share:.0%} too high" for policy, share in costs.surplus.items() if share > TOO_MUCH}
    if "compress" in costs.margin and model.has_magnitudes:
        # Measured: up to 7 % less than a step of 4 × 100 tokens took, which batches of up to 32 tokens do not tell.
        far["compress"] = "with DoRA does not tell what a larger one takes"
    for policy, how in far.items():
        raise ModelError(
            f"expected the memory of {model.source.base_name} in training to be predicted where blocks {policy} their "
            f"activations, so that budgets in memory, upload or seconds can be planned; a small batch {how}. "
            "Set train.activations=keep."
        )


LOW, HIGH = -0.02, 0.10
"""How much less and more than its measured peak a step may be predicted to take, as shares of it."""

TOO_MUCH = 0.5
"""How much more than its measured peak a step on a small batch may be predicted to take, where blocks do not keep their
activations: a share of it. Such a budget is kept, but wasted."""

UNIT, COMPRESSED = 8, 32
"""Tokens of the shortest calibration batch; where activations are compressed, only tensors above a size are."""


def calibration_batches(model: LoraModel, language: bool, unit: int) -> list[Batch]:
    """Return batches that tell all terms of a cost apart: of 1, 2 and 3 samples, of up to three lengths."""
    longest = 1 if model.takes_images else model.longest_input or 3 * unit
    unit = max(1, min(unit, longest // 3))
    lengths = [T for T in (unit, 2 * unit, 3 * unit) if longest >= T]
    shapes = [(b, T, 1) for T in lengths for b in (1, 2, 3)]
    shapes += [(b, lengths[-1], lengths[-1]) for b in (1, 3) if language]
    return [made_up(model, b, T, answer if language else None) for b, T, answer in shapes]


def _error(model: LoraModel, costs: StepCosts, autocast: bool, train_head: bool) -> float:
    """Return predicted over measured peak, minus 1, of a larger batch than those that the costs were fitted to.

    It is the worse of two: all blocks train, or the last one above all the others.
    """
    tokens = 1 if model.takes_images else min(2 * 3 * UNIT, model.longest_input or 2 * 3 * UNIT)
    batch = made_up(model, 5, tokens, None if costs.answer is None else tokens // 2)
    expected, L, errors = costs.at(shape_of(batch)), model.blocks.count, []
    for trained in dict.fromkeys((tuple(range(L)), (L - 1,))):
        found = measure_step(model, trained, FORWARD if costs.forward else KEEP, batch, autocast, train_head)
        predicted = needs(expected, Allocation(trained), first_step=True)
        measured = float(found.live.max()) + DIRECTIONS * costs.forward * sum(found.gradients)
        errors.append(predicted.peak_bytes / max(measured, 1.0) - 1)
    return max(errors, key=lambda error: max(LOW - error, error - HIGH))


def _margin(
    model: LoraModel, costs: StepCosts, policy: ActivationPolicy, autocast: bool, train_head: bool
) -> tuple[int, float, float]:
    """Return the most by which steps on short texts exceed their prediction: bytes, as a share of it, and the reverse.

    The costs are fitted to steps in which all blocks have one policy, and to texts of ``UNIT`` tokens and more. Four
    blocks are left of the model, of which a few combinations train.
    """
    L = model.blocks.count
    absent = tuple(range(3, L - 1))
    blocks = [l for l in range(L) if l not in absent]
    lengths = (1,) if model.takes_images else (5, 20)
    shapes = [(b, T) for T in lengths if (model.longest_input or T) >= T for b in (1, 4)]
    cases: list[tuple[tuple[int, ...], ActivationPolicy]] = [
        (tuple(blocks), policy), (tuple(blocks[len(blocks) // 2 :]), policy), (tuple(blocks[1::2]), policy),
        (tuple(blocks[1::2]), KEEP),
    ]  # fmt: skip
    most, less, over = 0, 0.0, 0.0
    for b, T in shapes:
        batch = made_up(model, b, T, None if costs.answer is None else max(1, T // 2))
        expected = costs.at(shape_of(batch))
        for trained, own in dict.fromkeys(case for case in cases if case[0]):
            lowest = min(trained)
            mixed = tuple(KEEP if l < lowest else own if l in trained else policy for l in range(L))
            with model.without_blocks(absent):
                step = measure_step(model, trained, own, batch, autocast, train_head, frozen=policy)
            predicted = needs(expected, Allocation(trained, mixed, absent=absent), first_step=True)
            peak = max(1, int(step.live.max()))
            more = peak - predicted.peak_bytes
            most, less, over = max(most, more), max(less, more / max(predicted.peak_bytes, 1)), max(over, -more / peak)
    return most, less, over


def _saved(l: int, step: MeasuredStep) -> float:
    return step.saved[l]


@dataclass(frozen=True)
class _Steps:
    """Measured steps of one kind on the calibration batches."""

    steps: list["MeasuredStep"]

    def of_many(self) -> "_Steps":
        """Return the steps on batches of several samples."""
        return _Steps([step for step in self.steps if step.shape[0] > 1])

    def of_one(self) -> "_Steps":
        """Return the steps on one sample, which is never padded, and of which some operations copy nothing."""
        return _Steps([step for step in self.steps if step.shape[0] == 1])

    @property
    def shapes(self) -> list[Shape]:
        return [step.shape for step in self.steps]

    def leave_alive(self, block: int, other: int) -> bool:
        """Return whether the bytes alive before two blocks, beyond what is held below, differ."""
        return any(step.alive_before(block) != step.alive_before(other) for step in self.steps)

    def through(self, quantity: Callable[["MeasuredStep"], float]) -> Growth:
        return Growth.through(self.shapes, [quantity(step) for step in self.steps])

    def more_alive(self, block: int, other: "_Steps", its: int) -> Growth:
        """Return how much more is alive before a block, beyond what is held below, than in others before theirs."""
        pairs = zip(self.steps, other.steps, strict=True)
        return Growth.through(self.shapes, [mine.alive_before(block) - that.alive_before(its) for mine, that in pairs])

    def more_flops(self, block: int, forward: "_Steps") -> Growth:
        """Return the FLOPs of a block beyond those of its forward pass in other steps on the same batches."""
        pairs = zip(self.steps, forward.steps, strict=True)
        more = [s.flops[block] + s.forward_flops[block] - other.forward_flops[block] for s, other in pairs]
        return Growth.through(self.shapes, more)

    def with_more(self, times: int, alive: Sequence[Growth]) -> "_Steps":
        """Return the steps as if some bytes more, ``times`` each, were alive in forward."""
        more = [times * sum(growth.at([step.shape]) for growth in alive) for step in self.steps]
        return _Steps([step.with_more(size) for step, size in zip(self.steps, more, strict=True)])

    def peak(self, blocks: Collection[int | None], above: bool = True) -> Peak:
        """Return the peak over the times at which one of some blocks runs, None for what is outside of them.

        Args:
            blocks: The blocks.
            above: Count bytes above those held for these blocks and what is below them, else all.
        """
        rows: list[list[float]] = []
        first = self.steps[0].windows
        same = all([w.block for w in step.windows] == [w.block for w in first] for step in self.steps)
        for i in range(len(first)) if same else ():
            found = [step.moments(step.windows[i], above) for step in self.steps]
            if first[i].block in blocks and len(found[0]):
                # What has another number of moments for another batch is told by its largest one.
                alike = all(len(moments) == len(found[0]) for moments in found)
                largest = [float(max(moments, default=0)) for moments in found]
                rows.extend([list(row) for row in zip(*found, strict=True)] if alike else [largest])
        if not rows:
            rows = [[max(step.moments(Window(None, True, 0, len(step.live)), above)) for step in self.steps]]
        return Peak.through(self.shapes, np.array(rows).T.tolist())


def measure_speed(model: LoraModel, costs: StepCosts, autocast: bool = False, answer: int | None = None) -> float:
    """Return this machine's FLOP/s in training: the best of a few steps that train all blocks."""
    shape = (8, calibration_length(model))
    if costs.forward:  # a step with backward tells the machine's speed as well
        costs = calibrate(model, autocast, [KEEP], answer)
    at = costs.at(shape, [shape])
    L = len(costs.block_bytes)
    everything = Allocation(tuple(range(L)))
    seconds = []
    for _ in range(3):
        synchronise(model)
        begin = time.perf_counter()
        run_step(model, range(L), made_up(model, *shape, answer), nullcontext(), autocast)
        synchronise(model)
        seconds.append(time.perf_counter() - begin)
    return needs(at, everything).flops / min(seconds)


def synchronise(model: LoraModel) -> None:
    """Wait until a GPU has finished its queued work."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def calibration_length(model: LoraModel) -> int:
    """Return the tokens of the longest calibration batch; 1 for images."""
    return 1 if model.takes_images else min(LONGEST, model.longest_input or LONGEST)


def made_up(model: LoraModel, samples: int, tokens: int, answer: int | None = None) -> Batch:
    """Return a synthetic batch: texts of one repeated token, the last one padded as in real batches, or black images.

    With ``answer``, at most that many last tokens of each text are its response.
    """
    labels = torch.zeros(samples, dtype=torch.int64)
    if model.takes_images:
        return Batch({"pixel_values": torch.zeros(samples, *model.image_shape)}, labels)
    mask = torch.ones(samples, tokens, dtype=torch.int64)
    if tokens > 1 and samples > 1:
        mask[-1, -1] = 0  # without padding, a model may need less work and memory
    ids = ended(model.base.config, torch.ones_like(mask), mask)
    if answer is not None:
        answered = (mask == 1) & (torch.arange(tokens) >= max(1, tokens - answer))
        labels = torch.where(answered, ids, IGNORED)
    return Batch({"input_ids": ids, "attention_mask": mask}, labels)
