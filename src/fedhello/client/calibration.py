"""Measure the costs of training steps: count bytes and FLOPs of a few passes over synthetic batches."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from fedhello.allocation.needs import needs
from fedhello.client.activations import activation_policies
from fedhello.client.cost_model import POLICIES, Growth, Kind, Peak, Shape, StepCosts
from fedhello.client.memory import StepMemory
from fedhello.costs import KEEP, ActivationPolicy, Role
from fedhello.data.batches import IGNORED, Batch
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.model.probe import ended
from fedhello.types import Allocation

LONGEST = 96
"""Tokens per sample of the longest calibration batch, if the model's input may be that long."""


def calibrate(
    model: LoraModel,
    autocast: bool = False,
    policies: Collection[ActivationPolicy] = POLICIES,
    answer: int | None = None,
) -> StepCosts:
    """Measure a model's blocks on small batches; its values and random state do not change.

    Args:
        model: The model, with at least one block; it is left frozen and in training mode.
        autocast: Whether steps run in bf16 autocast.
        policies: The activation policies to measure, including ``keep``.
        answer: For a language model, the tokens of the longest response, assumed for every sample.
    """
    long, L = calibration_length(model), model.blocks.count
    short = max(1, long // 3)
    small = tuple(dict.fromkeys(((1, short), (2, short), (2, long))))  # images are all of one length
    large = tuple((8 * b, T) for b, T in small)

    def steps(trained: Collection[int], policy: ActivationPolicy, shapes: Sequence[Shape]) -> _Steps:
        runs = [_measure(model, trained, policy, made_up(model, *shape, answer), autocast) for shape in shapes]
        return _Steps(tuple(shapes), tuple(runs))

    # Casting weights dominates small batches, and temporary memory of activations large ones.
    sizes = (small, large) if autocast else (small,)
    saved: dict[Kind, Growth] = {}
    transient: dict[Kind, Peak] = {}
    for policy in policies:
        everything = [steps(range(L), policy, shapes) for shapes in sizes]
        lowest_only = [steps((0,), policy, shapes) for shapes in sizes]
        # Blocks differ only by their role: block 0 is measured as the lowest, the last one for all others.
        saved[policy, "lowest"] = everything[-1].through(lambda run: run.blocks[0])
        saved[policy, "trained"] = everything[-1].through(lambda run: run.blocks[-1])
        saved[policy, "frozen"] = lowest_only[-1].through(lambda run: run.blocks[-1])
        transient[policy, "trained"] = Peak.of(size.peak(lambda run: run.transient) for size in everything)
        transient[policy, "lowest"] = transient[policy, "trained"]
        transient[policy, "frozen"] = Peak.of(size.peak(lambda run: run.transient) for size in lowest_only)
    head_only = [steps((), KEEP, shapes) for shapes in (small, large)]
    return StepCosts(
        saved=saved,
        transient=transient,
        outside=everything[-1].through(lambda run: run.outside, "c γ α"),
        outside_head_only=head_only[-1].through(lambda run: run.outside, "c γ α"),
        head_only_peak=Peak.of(size.peak(lambda run: run.peak) for size in head_only),
        **_count_flops(model, policies, small, answer),
        block_bytes=_bytes_by_block(model),
        head_bytes=sum(value.nbytes for value in model.read(model.head_names).values()),
    )


@dataclass(frozen=True)
class _Steps:
    """Measured steps of one kind on calibration batches of growing size."""

    shapes: tuple[Shape, ...]
    runs: tuple["_Measured", ...]

    def through(self, quantity: Callable[["_Measured"], float], terms: str = "c α β") -> Growth:
        return Growth.through(self.shapes, [quantity(run) for run in self.runs], terms)

    def peak(self, quantity: Callable[["_Measured"], float]) -> Peak:
        """Return the peak: a fit to all batches, and a line through the short ones, whose peak may lie elsewhere."""
        short = [quantity(run) for run in self.runs[:2]]
        return Peak((self.through(quantity), Growth.through(self.shapes[:2], short, "c α")))


def measure_speed(model: LoraModel, costs: StepCosts, autocast: bool = False, answer: int | None = None) -> float:
    """Return this machine's FLOP/s in training: the best of a few steps that train all blocks."""
    shape = (8, calibration_length(model))
    at = costs.at(shape, [shape])
    L = len(costs.block_bytes)
    everything = Allocation(tuple(range(L)))
    seconds = []
    for _ in range(3):
        _finish(model)
        begin = time.perf_counter()
        _step(model, range(L), made_up(model, *shape, answer), nullcontext(), autocast)
        _finish(model)
        seconds.append(time.perf_counter() - begin)
    return needs(at, everything).flops / min(seconds)


def _finish(model: LoraModel) -> None:
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
    if tokens > 1:
        mask[-1, -1] = 0  # without padding, a model may need less work and memory
    ids = ended(model.base.config, torch.ones_like(mask), mask)
    if answer is not None:
        answered = (mask == 1) & (torch.arange(tokens) >= max(1, tokens - answer))
        labels = torch.where(answered, ids, IGNORED)
    return Batch({"input_ids": ids, "attention_mask": mask}, labels)


@dataclass(frozen=True)
class _Measured:
    """Measured bytes of one step: saved per block, gradients per block, saved by the rest, and the peak."""

    blocks: tuple[int, ...]
    gradients: tuple[int, ...]
    outside: int
    peak: int

    @property
    def transient(self) -> int:
        """The peak minus the largest sum of saved tensors and gradients during backward."""
        held = (sum(self.blocks[: l + 1]) + sum(self.gradients[l + 1 :]) for l in range(len(self.blocks)))
        return self.peak - self.outside - max(held)


def _measure(
    model: LoraModel, trained: Collection[int], policy: ActivationPolicy, batch: Batch, autocast: bool
) -> _Measured:
    blocks = model.block_modules()
    policies = [policy if trained else "keep" for _ in blocks]
    memory = StepMemory(model.module.parameters())
    marks: list[int] = []
    ends: list[int] = []

    def mark(_: nn.Module, __: tuple[Tensor, ...]) -> None:
        if len(marks) < len(blocks):  # recomputation passes the blocks again
            marks.append(memory.saved_bytes)

    handles = [block.register_forward_pre_hook(mark) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(lambda *_: ends.append(memory.saved_bytes)))
    held = 0

    def note_held() -> None:
        nonlocal held
        held = memory.saved_bytes

    try:
        with activation_policies(blocks, policies, memory.note):
            _step(model, trained, batch, memory, autocast, note_held)
    finally:
        for handle in handles:
            handle.remove()
    bounds = [*marks, ends[0]]
    per_block = tuple(after - before for before, after in pairwise(bounds))
    gradients = tuple(size if l in trained else 0 for l, size in enumerate(_bytes_by_block(model)))
    return _Measured(per_block, gradients, held - sum(per_block), memory.peak_bytes)


def _step(
    model: LoraModel,
    trained: Collection[int],
    batch: Batch,
    watch: AbstractContextManager[Any],
    autocast: bool = False,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Run forward, ``between`` and backward inside the context ``watch``; values and random state do not change."""
    parameters = model.set_trainable(
        [name for name, block in model.block_of.items() if block is None or block in trained]
    )
    batch = batch.to(model.device)
    model.module.train()
    bf16 = torch.autocast(model.device.type, torch.bfloat16) if autocast else nullcontext()
    with torch.random.fork_rng(), watch:
        with bf16:
            found = predictions(model, batch)
        loss = cross_entropy(found.z, found.y)
        between()
        if parameters:  # without a head and a block there is nothing to train
            torch.autograd.grad(loss, parameters, allow_unused=True)  # such as the last block of a side stream


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of attention's forward pass on a CPU, 2 bhT² (d + d_v); torch's counter leaves it out."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(
    _: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *__: Any, **___: Any
) -> int:
    """FLOPs of its backward pass: QKᵀ again, and four products for the gradients."""
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _count_flops(
    model: LoraModel, policies: Collection[ActivationPolicy], shapes: Sequence[Shape], answer: int | None
) -> dict[str, Any]:
    """Count the multiplications and additions of matrix products, twice each product, by policy and role."""
    L = model.blocks.count

    def count(trained: Collection[int]) -> tuple[Growth, Growth]:
        counted = [_flops(model, trained, made_up(model, *shape, answer)) for shape in shapes]
        return (
            Growth.through(shapes, [step for step, _ in counted]),
            Growth.through(shapes, [forward for _, forward in counted]),
        )

    everything, bottom, top, none = (count(trained)[0] for trained in (range(L), (0,), (L - 1,), ()))
    forward = count(())[1]
    lowest = _sum((1, top), (-1, none))
    others = max(1, L - 1)
    trained = _sum((1 / others, everything), (-1 / others, none), (-1 / others, lowest))
    frozen = _sum((1 / others, bottom), (-1 / others, none), (-1 / others, lowest))
    backward: dict[Role, Growth] = {"lowest": lowest, "trained": trained, "frozen": frozen}
    again = {"keep": 0.0, "recompute": 1.0, "compress": 0.0}
    flops = {(p, role): _sum((1, growth), (again[p], forward)) for p in policies for role, growth in backward.items()}
    return {"flops": flops, "flops_outside": none}


def _flops(model: LoraModel, trained: Collection[int], batch: Batch) -> tuple[int, int]:
    """Return the FLOPs of a step, and of one block's forward pass in it."""
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    around: list[int] = []

    def note(*_: object) -> None:
        around.append(counter.get_total_flops())

    block = model.block_modules()[-1]
    handles = [block.register_forward_pre_hook(note), block.register_forward_hook(note)]
    try:
        _step(model, trained, batch, counter)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops(), around[1] - around[0]


def _sum(*parts: tuple[float, Growth]) -> Growth:
    columns = zip(*(astuple(growth) for _, growth in parts), strict=True)
    return Growth(*(sum(w * x for (w, _), x in zip(parts, column, strict=True)) for column in columns))


def _bytes_by_block(model: LoraModel) -> tuple[int, ...]:
    totals = [0] * model.blocks.count
    for name, value in model.read(model.block_of).items():
        block = model.block_of[name]
        if block is not None:
            totals[block] += value.nbytes
    return tuple(totals)
