"""Reference points, and methods that allocate whole blocks otherwise than by pattern or score."""

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from fedhello.allocation.geometric import draw_preference, pattern_preference
from fedhello.allocation.planner import fit, fixed_policies, means, plan
from fedhello.allocation.ranks import affordable
from fedhello.strategy import Situation
from fedhello.types import KEEP, Allocation


def everything(situation: Situation) -> Allocation:
    """All blocks at full rank, whatever the budget says: what federated learning would reach if all could afford it."""
    L = situation.federation.blocks
    return Allocation(tuple(range(L)), (KEEP,) * L)


def head_alone(situation: Situation) -> Allocation:
    """No block: the head alone, which every client can afford."""
    return Allocation((), (KEEP,) * situation.federation.blocks)


def nothing(situation: Situation) -> None:
    """Nobody takes part."""


def only_the_able(situation: Situation) -> Allocation | None:
    """All blocks at full rank, or nothing: clients that cannot afford it sit out (Exclusive)."""
    federation = situation.federation
    L, budget = federation.blocks, situation.client.budget
    if budget.blocks is not None and budget.blocks < L:
        return None
    rank, policies = affordable(situation)
    return Allocation(tuple(range(L)), policies) if rank == federation.rank else None


def weakest_for_all(situation: Situation) -> Allocation:
    """As many blocks as the weakest client affords, for everyone, evenly spread over the model (Straggler).

    With c blocks of L these are ⌊i L/c⌋ for i = 0 … c−1; for 6 of 12 the published 0, 2, 4, 6, 8, 10.
    """
    federation = situation.federation
    one_of = {client.tier: client for client in federation.clients}
    weakest = min(most_spaced(replace(situation, client=k, excess=1.0)) for k in one_of.values())
    return _fit_exactly(situation, spaced_blocks(weakest, federation.blocks))


def most_spaced(situation: Situation) -> int:
    """Return how many evenly spaced blocks a client can afford at most."""
    L = situation.federation.blocks
    sets = [spaced_blocks(count, L) for count in range(L, 0, -1)]
    return next((len(blocks) for blocks in sets if _fit_exactly(situation, blocks).blocks == blocks), 0)


def _fit_exactly(situation: Situation, blocks: tuple[int, ...]) -> Allocation:
    return fit(situation, [1.0 if l in blocks else 0.0 for l in range(situation.federation.blocks)])


def spaced_blocks(count: int, blocks: int) -> tuple[int, ...]:
    """Return ``count`` of the blocks, evenly spaced from block 0 on.

    Example:
        >>> spaced_blocks(6, 12)
        (0, 2, 4, 6, 8, 10)
    """
    return tuple(i * blocks // count for i in range(count))


def random_blocks(situation: Situation) -> Allocation:
    """As many blocks as the client affords, uniformly at random, anew each round; the others are frozen."""
    L = situation.federation.blocks
    return fit(situation, draw_preference(np.full(L, 1 / L), situation.rng()))


def random_sub_model(situation: Situation) -> Allocation | None:
    """A sub-model of random blocks, anew each round: the others do not exist on the client (FedRA).

    With a budget in bytes the sub-model has as many blocks as fit when all of them train; None if not one does.
    """
    federation = situation.federation
    L = federation.blocks
    budget, costs = means(situation)
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
    present = sorted(int(l) for l in situation.rng().choice(L, size=count, replace=False))
    policy_of = dict(zip(present, policies, strict=True))
    return Allocation(
        blocks=tuple(present),
        policies=tuple(policy_of.get(l, KEEP) for l in range(L)),
        absent=tuple(l for l in range(L) if l not in policy_of),
    )


def last_blocks(situation: Situation, *, step: Annotated[int, Field(ge=0)] = 1) -> Allocation:
    """The last blocks that the client affords, with ranks that grow towards the output (LEGEND, arXiv 2412.20004).

    Block l has rank r_l = max(1, R − step·(L − 1 − l)). The paper's coordinator plans each round anew from measured
    times; here the planner does, from the budget of bytes and seconds. Bytes are counted at full rank, so what is
    planned is at most what fits.
    """
    federation = situation.federation
    L, R = federation.blocks, federation.rank
    found = fit(situation, pattern_preference("inverted_triangle", L))
    return replace(found, ranks=tuple(max(1, R - step * (L - 1 - l)) for l in range(L)))
