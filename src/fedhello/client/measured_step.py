"""Measure one training step moment by moment: live bytes, bytes saved by each block, and FLOPs."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhello.client.activations import activation_policies
from fedhello.client.cost_model import Shape
from fedhello.client.forward_gradient import estimate_gradients
from fedhello.client.memory import StepMemory
from fedhello.client.mode import set_training
from fedhello.costs import FORWARD, KEEP, ActivationPolicy
from fedhello.data.batches import Batch
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.model.number_type import in_bfloat16, rounded_weights


@dataclass(frozen=True)
class Window:
    """The operations of a step while a block runs, forward or backward: from ``begin`` up to ``end``.

    Attributes:
        block: The block; None for what is outside of them.
        forward: Whether this is in the forward pass.
        begin: Number of the first operation.
        end: Number of the operation after the last one.
    """

    block: int | None
    forward: bool
    begin: int
    end: int


@dataclass(frozen=True)
class MeasuredStep:
    """One measured step.

    Attributes:
        shape: Of its batch.
        saved: Bytes that each block saved for backward, in all its calls.
        gradients: Bytes of each block's gradients.
        outside: Bytes that the rest saved.
        live: Bytes of the live tensors after each operation.
        windows: Which block ran when.
        forward_flops: FLOPs of each block's forward pass.
        flops: FLOPs of each block's backward pass.
        total_flops: FLOPs of the step.
    """

    shape: Shape
    saved: tuple[int, ...]
    gradients: tuple[int, ...]
    outside: int
    live: np.ndarray
    windows: tuple[Window, ...]
    forward_flops: tuple[int, ...]
    flops: tuple[int, ...]
    total_flops: int

    def all_flops(self, absent: int) -> int:
        """Return the step's FLOPs with a number of blocks that were left out."""
        return self.total_flops + absent * self.forward_flops[-1]

    def alive_before(self, block: int) -> float:
        """Return the live bytes at a block's first operation in forward, beyond what is held for those below it.

        Only then has its caller let go of what the block before it read.
        """
        begin = next(window.begin for window in self.windows if window.forward and window.block == block)
        return float(self.live[begin] - self.outside - sum(self.saved[:block]))

    def with_more(self, alive: float) -> "MeasuredStep":
        """Return the step as if so many bytes more were alive in forward."""
        forward = max(window.end for window in self.windows if window.forward)
        return replace(self, live=self.live + alive * (np.arange(len(self.live)) < forward))

    def moments(self, window: Window, above: bool) -> np.ndarray:
        """Return the live bytes after each operation of a window; ``above``: beyond those that are held then.

        Held are the saved tensors outside the blocks, of the window's block and of those below it, and in backward the
        gradients of those above it; of a window outside the blocks, all saved tensors.
        """
        top = len(self.saved) if window.block is None else window.block + 1
        held = self.outside + sum(self.saved[:top]) + (0 if window.forward else sum(self.gradients[top:]))
        return self.live[window.begin : window.end] - (held if above else 0)


def measure_step(
    model: LoraModel,
    trained: Collection[int],
    policy: ActivationPolicy,
    batch: Batch,
    autocast: bool,
    train_head: bool,
    frozen: ActivationPolicy | None = None,
) -> MeasuredStep:
    """Run one step and return what it took; the model's values and random state do not change.

    Args:
        model: The model.
        trained: The blocks that train.
        policy: What blocks that hold activations do with them.
        batch: The batch.
        autocast: Whether it runs in bf16 autocast.
        train_head: Whether the head trains.
        frozen: What frozen ones of them do, if something else.
    """
    blocks, frozen = model.block_modules(), frozen or policy
    lowest = min(trained, default=len(blocks))
    policies = [KEEP if l < lowest else policy if l in (lowest, *trained) else frozen for l in range(len(blocks))]
    with rounded_weights(model, autocast):
        marks = _Marks(StepMemory(model.module.parameters(), count_flops=True))
        handles = [block.register_forward_pre_hook(partial(marks.enter, l)) for l, block in enumerate(blocks)]
        handles += [block.register_forward_hook(partial(marks.leave, l)) for l, block in enumerate(blocks)]
        marks.add(None)
        try:
            with activation_policies(blocks, policies, marks.memory.note):
                if policy == FORWARD and trained:
                    run_slope(model, trained, batch, marks.memory, autocast, marks.turn)
                else:
                    run_step(model, trained, batch, marks.memory, autocast, marks.turn, train_head)
        finally:
            for handle in handles:
                handle.remove()
        marks.add(None)
    step = _from_marks(model, trained, batch, np.array(marks.memory.live), marks.found)
    # A direction of the trained values is held all along; plans count it by the values that train.
    return replace(step, live=step.live - sum(step.gradients)) if policy == FORWARD else step


class _Marks:
    """The moments of a step at which blocks begin and end.

    Attributes:
        memory: What measures the step.
        found: The moments so far.
    """

    def __init__(self, memory: StepMemory) -> None:
        self.memory = memory
        self.found: list[_Mark] = []
        self._forward = True

    def add(self, block: int | None) -> None:
        """Note that a block, or what is outside of them, begins to run."""
        memory = self.memory
        self.found.append(_Mark(block, self._forward, len(memory.live), memory.held_bytes, memory.flops))

    def enter(self, block: int, *_: object) -> None:
        """Note the begin of a block's forward pass."""
        if self._forward:  # recomputation passes the blocks again
            self.add(block)

    def leave(self, block: int, _: nn.Module, __: tuple[Tensor, ...], output: Any) -> None:
        """Note the end of a block's forward pass, and later the begin of its backward pass."""
        if not self._forward:
            return
        self.add(None)
        tensors = [x for x in (output if isinstance(output, tuple) else (output,)) if isinstance(x, Tensor)]
        if tensors and tensors[0].requires_grad:
            tensors[0].register_hook(lambda _: self.add(block))

    def turn(self) -> None:
        """Note that backward begins."""
        self._forward = False
        self.add(None)


@dataclass(frozen=True)
class _Mark:
    """A moment of a step at which a block, or what is outside of them, begins to run.

    Attributes:
        block: The block.
        forward: Whether this is in the forward pass, which the loss ends.
        operation: Number of the next operation.
        saved: Bytes saved for backward so far.
        flops: FLOPs so far.
    """

    block: int | None
    forward: bool
    operation: int
    saved: int
    flops: int


def _from_marks(
    model: LoraModel, trained: Collection[int], batch: Batch, live: np.ndarray, marks: Sequence[_Mark]
) -> MeasuredStep:
    saved, forward_flops, flops = ([0] * model.blocks.count for _ in range(3))
    outside = 0
    for begin, end in pairwise(marks):
        if begin.forward and begin.block is not None:
            saved[begin.block] += end.saved - begin.saved
            forward_flops[begin.block] += end.flops - begin.flops
        elif begin.forward:
            outside += end.saved - begin.saved
        elif begin.block is not None:
            flops[begin.block] += end.flops - begin.flops
    return MeasuredStep(
        shape=shape_of(batch),
        saved=tuple(saved),
        gradients=tuple(size if l in trained else 0 for l, size in enumerate(bytes_by_block(model))),
        outside=outside,
        live=live,
        windows=tuple(
            Window(begin.block, begin.forward, begin.operation, end.operation) for begin, end in pairwise(marks)
        ),
        forward_flops=tuple(forward_flops),
        flops=tuple(flops),
        total_flops=marks[-1].flops,
    )


def run_step(
    model: LoraModel,
    trained: Collection[int],
    batch: Batch,
    watch: AbstractContextManager[Any],
    autocast: bool = False,
    between: Callable[[], None] = lambda: None,
    train_head: bool = True,
) -> None:
    """Run forward, ``between`` and backward inside the context ``watch``; values and random state do not change."""
    parameters = model.set_trainable(
        [name for name, block in model.block_of.items() if (train_head if block is None else block in trained)]
    )
    batch = batch.to(model.device)
    set_training(model, min(trained, default=model.blocks.count))
    with torch.random.fork_rng(), rounded_weights(model, autocast), watch:
        with in_bfloat16(model, autocast):
            found = predictions(model, batch)
        loss = cross_entropy(found.z, found.y)
        between()
        if parameters:  # without a head that trains and a block there is nothing to train
            torch.autograd.grad(loss, parameters, allow_unused=True)  # such as the last block of a side stream


def run_slope(
    model: LoraModel,
    trained: Collection[int],
    batch: Batch,
    watch: AbstractContextManager[Any],
    autocast: bool,
    between: Callable[[], None],
) -> None:
    """Run one pass along one direction inside ``watch``, then ``between``; values and random state do not change."""
    parameters = model.set_trainable([name for name, block in model.block_of.items() if block in trained])
    batch = batch.to(model.device)
    set_training(model, min(trained))

    def loss() -> Tensor:
        with in_bfloat16(model, autocast):
            found = predictions(model, batch)
        return cross_entropy(found.z, found.y)

    with torch.random.fork_rng(), rounded_weights(model, autocast), watch:
        estimate_gradients(model, parameters, loss, tangents=1, seed=0)
        between()
    model.set_trainable(())


def bytes_by_block(model: LoraModel) -> tuple[int, ...]:
    """Return the bytes of each block's factors, length L."""
    totals = [0] * model.blocks.count
    for name, value in model.read(model.block_of).items():
        block = model.block_of[name]
        if block is not None:
            totals[block] += value.nbytes
    return tuple(totals)


def shape_of(batch: Batch) -> Shape:
    """Return a batch's samples, tokens, and in language modelling labelled tokens."""
    return batch.shape if batch.labelled is None else (*batch.shape, batch.labelled)
