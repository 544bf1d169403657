"""Costs of training: activation policies, and bytes and FLOPs by block."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np

ActivationPolicy = Literal["keep", "recompute", "compress", "forward"]
"""What a block does with its activations between forward and backward; see ``fedhello.client.activations``.

``forward`` keeps nothing, since there is no backward; see ``fedhello.client.forward_gradient``.
"""


DIRECTIONS = 2
"""Values that a pass without backward holds per trained value: one of the direction and one of the estimate."""

T = TypeVar("T", int, np.ndarray)

KEEP: ActivationPolicy = "keep"
FORWARD: ActivationPolicy = "forward"


Role = Literal["lowest", "trained", "frozen"]
"""A block's role in backward: the lowest trained block (no gradient of its input is needed), another trained block, or
a frozen block above the lowest. Blocks below the lowest have no role."""


ActivationRule = Literal["keep", "recompute-frozen", "recompute", "compress", "auto", "auto-compress", "forward"]
"""Which policies a run allows; see ``fedhello.allocation.planner``."""


@dataclass(frozen=True)
class Costs:
    """Costs of training on one client's (or tier's) data: bytes of its widest step, FLOPs of its round.

    Attributes:
        saved: Bytes that a block holds for backward, by policy and role.
        transient: Bytes while a block's backward runs beyond those saved by it, below it and outside, by policy and
            role; negative where more of those outside is free by then.
        transient_loss: Temporary bytes beyond all saved ones before any block's backward: of the forward pass, the head
            and the loss.
        outside: Bytes held outside the blocks for backward.
        outside_head_only: The same if no block trains, so that no gradient of the last block's output is needed.
        head_only_peak: Peak bytes of a step that trains no block.
        flops: FLOPs that a block adds to a round beyond its forward pass, by policy and role.
        flops_outside: All other FLOPs of a round: the forward pass of the whole model, and the head.
        block_bytes: Per block, bytes of its LoRA factors at full rank; length L.
        reserve: Bytes kept free for memory outside tensors: operators' scratch memory and the allocator's overhead.
        head_bytes: Bytes of the head that trains with the blocks; 0 if it is frozen.
        head_shared: Whether the head is uploaded, so that a client may train it alone.
        moments: Number of values that the optimiser keeps between steps per trained value.
        block_upload: Per block, the most bytes on the wire; length L.
        fixed_upload: The most bytes on the wire of an update without a block.
        rank: R, the rank that ``block_bytes`` and ``block_upload`` are for.
        copies: How many gradients of each trained value a step holds: 1, or more where samples have their own.
        update: Temporary bytes of the optimiser's step.
        update_head_only: The same if no block trains.
        below: Bytes that stay alive in forward if the first block does not train: its input, which a trained one holds.
        below_each: The same for each further block below the lowest: outputs that a model gathers (DeBERTa).
        left: Bytes that a block above the lowest leaves alive in forward but does not hold, by policy and role.
        margin: Bytes beyond all others of a step in which some block has a policy.
        forward_flops: FLOPs of a block's forward pass, which ``flops_outside`` has for every block.
        passes: How often a step passes the blocks, which ``forward_flops`` counts all: once with backward.
        forward: Whether blocks train without backward, from slopes along random directions.
    """

    saved: Mapping[tuple[ActivationPolicy, Role], int] = field(hash=False)
    transient: Mapping[tuple[ActivationPolicy, Role], int] = field(hash=False)
    outside: int
    outside_head_only: int
    head_only_peak: int
    flops: Mapping[tuple[ActivationPolicy, Role], int] = field(hash=False)
    flops_outside: int
    block_bytes: tuple[int, ...]
    reserve: int
    head_bytes: int
    head_shared: bool
    moments: int
    block_upload: tuple[int, ...]
    fixed_upload: int
    rank: int = 1
    copies: int = 1
    transient_loss: int = 0
    update: int = 0
    update_head_only: int = 0
    below: int = 0
    below_each: int = 0
    left: Mapping[tuple[ActivationPolicy, Role], int] = field(default_factory=dict, hash=False)
    margin: Mapping[ActivationPolicy, int] = field(default_factory=dict, hash=False)
    forward_flops: int = 0
    passes: int = 1
    forward: bool = False

    def gradients(self, above: T, own: int) -> T:
        """Return the bytes of gradients that are held while backward runs a block, beyond its transient ones.

        Args:
            above: Bytes of the trained values of the blocks above.
            own: Of its own; a transient holds one gradient of them.
        """
        return above * self.copies + own * (self.copies - 1) if not self.forward else 0 * above

    def throughout(self, factors: T) -> T:
        """Return the bytes held in all passes without backward: a direction, the estimate, and the head's gradient.

        Args:
            factors: Bytes of the trained factors.
        """
        return DIRECTIONS * factors + self.head_bytes if self.forward else 0 * factors

    def alive_below(self, lowest: int) -> int:
        """Return the bytes that blocks below the lowest trained one leave alive in forward, beyond those outside."""
        return self.below + (lowest - 1) * self.below_each if lowest else 0

    def added(self, used: Collection[ActivationPolicy]) -> int:
        """Return the bytes to add to the peak of a step in which some policies are used."""
        return max((self.margin.get(policy, 0) for policy in used), default=0)

    def held_once(self, lowest: ActivationPolicy, used: Collection[ActivationPolicy]) -> int:
        """Return the bytes that the first block that recomputes holds for all, if it is not the lowest trained one.

        They are what blocks are given beside their input, such as masks.

        Args:
            lowest: The policy of the lowest trained block.
            used: The policies of all blocks from that one on.
        """
        if "recompute" not in used or lowest == "recompute" or ("recompute", "lowest") not in self.saved:
            return 0  # without figures of it, no block may recompute
        return max(0, self.saved["recompute", "lowest"] - self.saved["recompute", "frozen"])

    def at_rank(self, rank: int) -> "Costs":
        """Return the costs with factors of another rank: bytes of factors and upload change, activations do not."""
        if rank == self.rank:
            return self
        less = tuple(size - size * rank // self.rank for size in self.block_bytes)
        return replace(
            self,
            block_bytes=tuple(size - saved for size, saved in zip(self.block_bytes, less, strict=True)),
            block_upload=tuple(size - saved for size, saved in zip(self.block_upload, less, strict=True)),
            rank=rank,
        )

    def with_kept_activations(self, share: float) -> "Costs":
        """Return the costs where blocks below the lowest trained one run once for a share of the round's steps alone.

        What they are spared is taken from all blocks, and added to those from the lowest trained one on.

        Args:
            share: Within 0 … 1: 0 where a client has kept what they compute, 1/E where it computes it once in E epochs.
        """
        spared = round((1 - share / self.passes) * self.forward_flops)
        flops = {kind: size + spared for kind, size in self.flops.items()}
        return replace(self, flops=flops, flops_outside=self.flops_outside - spared * len(self.block_bytes))

    def of_blocks(self, count: int) -> "Costs":
        """Return the costs of a sub-model of ``count`` blocks."""
        return replace(self, block_bytes=self.block_bytes[:count], block_upload=self.block_upload[:count])
