"""Baselines, and methods that allocate whole blocks by neither pattern nor score."""

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from fedhello.allocation.geometric import draw_preference, pattern_preference
from fedhello.allocation.planner import fit, fixed_policies, means, plan
from fedhello.allocation.ranks import affordable
from fedhello.costs import KEEP
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation


def everything(context: AllocationContext) -> Allocation:
    """All blocks at full rank, whatever the budget: the upper reference."""
    L = context.federation.num_blocks
    return Allocation(tuple(range(L)), (KEEP,) * L)


def head_alone(context: AllocationContext) -> Allocation:
    """No block: the head alone, which every client can afford."""
    return Allocation((), (KEEP,) * context.federation.num_blocks)


def nothing(context: AllocationContext) -> None:
    """Nobody takes part."""


def only_the_able(context: AllocationContext) -> Allocation | None:
    """All blocks at full rank, or nothing: clients that cannot afford it sit out (Exclusive)."""
    federation = context.federation
    L, budget = federation.num_blocks, context.client.budget
    if budget.blocks is not None and budget.blocks < L:
        return None
    rank, policies = affordable(context)
    return Allocation(tuple(range(L)), policies) if rank == federation.rank else None


def weakest_for_all(context: AllocationContext) -> Allocation:
    """As many blocks as the weakest client affords, for everyone, evenly spread over the model (Straggler).

    With c blocks of L these are ⌊i L/c⌋ for i = 0 … c−1; for 6 of 12 the published 0, 2, 4, 6, 8, 10.
    """
    federation = context.federation
    weakest = min(most_spaced(replace(context, client=k, excess=1.0)) for k in federation.one_of.values())
    return _fit_exactly(context, spaced_blocks(weakest, federation.num_blocks))


def most_spaced(context: AllocationContext) -> int:
    """Return how many evenly spaced blocks a client can afford at most."""
    L = context.federation.num_blocks
    sets = [spaced_blocks(count, L) for count in range(L, 0, -1)]
    return next((len(blocks) for blocks in sets if _fit_exactly(context, blocks).blocks == blocks), 0)


def _fit_exactly(context: AllocationContext, blocks: tuple[int, ...]) -> Allocation:
    return fit(context, [1.0 if l in blocks else 0.0 for l in range(context.federation.num_blocks)])


def spaced_blocks(count: int, num_blocks: int) -> tuple[int, ...]:
    """Return ``count`` of the blocks, evenly spaced from block 0 on.

    Example:
        >>> spaced_blocks(6, 12)
        (0, 2, 4, 6, 8, 10)
    """
    return tuple(i * num_blocks // count for i in range(count))


def random_blocks(context: AllocationContext) -> Allocation:
    """As many blocks as the client affords, uniformly at random, anew each round; the others are frozen."""
    L = context.federation.num_blocks
    return fit(context, draw_preference(np.full(L, 1 / L), context.rng()))


def random_sub_model(context: AllocationContext) -> Allocation | None:
    """A sub-model of random blocks, anew each round: the others do not exist on the client (FedRA).

    With a budget in bytes the sub-model has as many blocks as fit when all of them train; None if not one does.
    """
    federation = context.federation
    L = federation.num_blocks
    budget, costs = means(context)
    if budget.only_counts or costs is None:
        count = budget.blocks or 0
        policies = fixed_policies(federation.rule, range(count), count)
    else:
        free = replace(budget, blocks=None)
        for count in range(min(L, budget.blocks or L), 0, -1):
            found = plan(free, (1.0,) * count, costs.of_blocks(count), federation.rule)
            if len(found.blocks) == count:
                policies = found.policies
                break
        else:
            return None
    if count == 0:
        return Allocation((), (KEEP,) * L)
    present = sorted(int(l) for l in context.rng().choice(L, size=count, replace=False))
    policy_of = dict(zip(present, policies, strict=True))
    return Allocation(
        blocks=tuple(present),
        policies=tuple(policy_of.get(l, KEEP) for l in range(L)),
        absent=tuple(l for l in range(L) if l not in policy_of),
    )


def last_blocks(context: AllocationContext, *, step: Annotated[int, Field(ge=0)] = 1) -> Allocation:
    """The last blocks that the client affords, with ranks that grow towards the output (LEGEND, arXiv 2412.20004).

    Block l has rank r_l = max(1, R − step·(L − 1 − l)). The paper's coordinator plans each round anew from measured
    times; here the planner does, from the budget of bytes and seconds. Bytes are counted at full rank, an upper bound.
    """
    federation = context.federation
    L, R = federation.num_blocks, federation.rank
    found = fit(context, pattern_preference("inverted_triangle", L))
    return replace(found, ranks=tuple(max(1, R - step * (L - 1 - l)) for l in range(L)))
