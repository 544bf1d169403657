"""Predict what a training step will hold, without training: calibrate once on tiny batches, then add up.

A block's bytes depend on its policy and on its role: the lowest trained block (nothing asks for the gradient of its
input), another trained one, or a frozen one that backward passes. For b samples of T tokens they are α·bT + β·bT²,
where β is what attention adds. Two small batches give α and β of everything. A step then holds

    saved = outside + Σ_l s_l                            s_l = 0 below the lowest trained block
    peak  = max_l ( Σ_{j ≤ l} s_j + t_l + Σ_{j > l} g_j )

for backward goes from top to bottom and frees a block when it has passed. t_l is what works on block l need for a
moment, such as a recomputed block's activations, and g_j are the gradients of block j's trained tensors; on top comes
the state of the optimiser. Nothing is tried per allocation.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhello.client.activations import Policy, activation_policies
from fedhello.client.memory import StepMemory
from fedhello.data.batches import Examples
from fedhello.model.adapter import LoraModel

POLICIES: tuple[Policy, ...] = get_args(Policy)
Role = Literal["lowest", "trained", "frozen"]
Shape = tuple[int, int]
"""A batch: samples × tokens."""

LONGEST = 96
"""Tokens of the larger calibration batch, where the model takes as many."""


@dataclass(frozen=True)
class Growth:
    """A number of bytes as a function of the batch: α·bT + β·bT²."""

    linear: float
    quadratic: float

    def at(self, samples: int, tokens: int) -> float:
        """Return the bytes for b samples of T tokens."""
        return self.linear * samples * tokens + self.quadratic * samples * tokens**2


@dataclass(frozen=True)
class StepCosts:
    """What a model's steps hold, by the part that holds it.

    Attributes:
        saved: What a block holds for backward.
        transient: What works on a block need for a moment, beyond what is held.
        outside: What is held outside the blocks; per sample, whatever its length.
        outside_head_only: The same where no block trains: nothing asks for the gradient of the last block's output.
        head_only: Peak of a step that trains no block.
        gradients: Per block, bytes of its LoRA factors.
    """

    saved: Mapping[tuple[Policy, Role], Growth]
    transient: Mapping[tuple[Policy, Role], Growth]
    outside: float
    outside_head_only: float
    head_only: Growth
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """Predicted bytes of a step, above the loaded model."""

    saved_bytes: int
    peak_bytes: int


def predict(
    costs: StepCosts, trained: Collection[int], policies: Sequence[Policy], samples: int, tokens: int, state_bytes: int
) -> Prediction:
    """Predict a step.

    Args:
        costs: Of the model, from ``calibrate``.
        trained: The blocks that train.
        policies: One per block.
        samples: b.
        tokens: T, the batch's longest sample.
        state_bytes: What the optimiser keeps between steps.
    """
    lowest = min(trained, default=len(policies))
    held = (costs.outside if trained else costs.outside_head_only) * samples
    peak = costs.head_only.at(samples, tokens)
    for block in range(lowest, len(policies)):
        role: Role = "lowest" if block == lowest else "trained" if block in trained else "frozen"
        kind = (policies[block], role)
        held += costs.saved[kind].at(samples, tokens)
        above = sum(costs.gradients[j] for j in trained if j > block)
        peak = max(peak, held + costs.transient[kind].at(samples, tokens) + above)
    return Prediction(round(held), round(peak) + state_bytes)


def calibrate(model: LoraModel) -> StepCosts:
    """Measure a model's blocks on small batches; its values and random state stay as they are.

    Args:
        model: The model, with at least one block; it is left frozen and in training mode.
    """
    L = model.blocks.count
    longest = min(LONGEST, model.longest_input or LONGEST)
    shapes = ((2, max(1, longest // 3)), (2, longest))
    saved: dict[tuple[Policy, Role], Growth] = {}
    transient: dict[tuple[Policy, Role], Growth] = {}
    outside = 0.0
    for policy in POLICIES:
        cases: tuple[tuple[tuple[int, ...], Role], ...] = ((tuple(range(L)), "trained"), ((0,), "frozen"))
        for trained, role in cases:
            runs = [_measure(model, trained, policy, shape) for shape in shapes]
            # All blocks are alike but for their role: block 0 is the lowest, the last stands for the others.
            saved[policy, role] = _fit(shapes, [run.blocks[-1] for run in runs])
            transient[policy, role] = _fit(shapes, [run.peak - run.outside - sum(run.blocks) for run in runs])
            if role == "trained":
                saved[policy, "lowest"] = _fit(shapes, [run.blocks[0] for run in runs])
                transient[policy, "lowest"] = transient[policy, role]
                outside = runs[-1].outside / shapes[-1][0]
    head_only = [_measure(model, (), "keep", shape) for shape in shapes]
    return StepCosts(
        saved=saved,
        transient=transient,
        outside=outside,
        outside_head_only=head_only[-1].outside / shapes[-1][0],
        head_only=_fit(shapes, [run.peak for run in head_only]),
        gradients=_bytes_by_block(model),
    )


@dataclass(frozen=True)
class _Measured:
    blocks: tuple[int, ...]
    outside: int
    peak: int


def _measure(model: LoraModel, trained: Collection[int], policy: Policy, shape: Shape) -> _Measured:
    """Run one step on a made-up batch and return what each block saved, what the rest saved, and the peak."""
    samples, tokens = shape
    chosen = [name for name, block in model.block_of.items() if block is None or block in trained]
    parameters = model.select(chosen)
    example = Examples((np.ones(tokens, dtype=np.int64),) * samples, np.zeros(samples, dtype=np.int64), pad=0)
    batch = example.batch(np.arange(samples)).to(model.device)
    blocks = model.block_modules()
    policies = [policy if trained else "keep" for _ in blocks]

    memory = StepMemory(model.module.parameters())
    marks: list[int] = []

    def mark(_: nn.Module, __: tuple[Tensor, ...]) -> None:
        if len(marks) < len(blocks):  # recomputation passes the blocks again
            marks.append(memory.saved_bytes)

    handles = [block.register_forward_pre_hook(mark) for block in blocks]
    ends: list[int] = []
    handles.append(blocks[-1].register_forward_hook(lambda *_: ends.append(memory.saved_bytes)))
    model.module.train()
    try:
        with torch.random.fork_rng(), activation_policies(blocks, policies, memory.note), memory:
            loss = cross_entropy(model.module(**batch.inputs).logits.float(), batch.labels)
            held = memory.saved_bytes
            torch.autograd.grad(loss, parameters)
    finally:
        for handle in handles:
            handle.remove()
    bounds = [*marks, ends[0]]
    per_block = tuple(after - before for before, after in pairwise(bounds))
    return _Measured(per_block, held - sum(per_block), memory.peak_bytes)


def _bytes_by_block(model: LoraModel) -> tuple[int, ...]:
    totals = [0] * model.blocks.count
    for name, value in model.read(model.block_of).items():
        block = model.block_of[name]
        if block is not None:
            totals[block] += value.nbytes
    return tuple(totals)


def _fit(shapes: Sequence[Shape], values: Sequence[float]) -> Growth:
    """Solve α·bT + β·bT² = value for the two calibration batches."""
    system = np.array([[b * t, b * t**2] for b, t in shapes], dtype=np.float64)
    linear, quadratic = np.linalg.solve(system, np.array(values, dtype=np.float64))
    return Growth(float(linear), float(quadratic))
