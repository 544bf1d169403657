"""Allocators of ranks: every client trains all blocks, weak clients at a lower rank.

A tier states its rank r_k, or bytes: then r_k is the highest rank at which all blocks fit. Activations do not
depend on the rank, so a low rank saves upload and optimiser state, but little memory.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import fixed_policies, means, plan
from fedhello.costs import ActivationPolicy
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Factors, Federation

Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def affordable(context: AllocationContext) -> tuple[int, tuple[ActivationPolicy, ...]]:
    """Return the highest rank at which the client can train all blocks, and each block's policy; 0 if there is none."""
    budget, costs = means(context)
    federation = context.federation
    L, most = federation.num_blocks, min(federation.rank, budget.rank or federation.rank)
    if budget.only_counts or costs is None:
        return most, fixed_policies(federation.rule, range(L), L)
    for r in range(most, 0, -1):
        found = plan(replace(budget, blocks=None), (1.0,) * L, costs.at_rank(r), federation.rule)
        if len(found.blocks) == L:
            return r, found.policies
    return 0, ()


def _everywhere(
    context: AllocationContext, rank: int, policies: tuple[ActivationPolicy, ...], factors: Factors = "AB"
) -> Allocation | None:
    """Return the allocation of all blocks at one rank; None if there is no rank to train at."""
    L = context.federation.num_blocks
    return Allocation(tuple(range(L)), policies, ranks=(rank,) * L, factors=factors) if rank else None


def own_rank(context: AllocationContext) -> Allocation | None:
    """Every client trains all blocks at the rank that it can afford (HeLoRA, FlexLoRA, RBLA, FLoRA, …)."""
    return _everywhere(context, *affordable(context))


def common_rank(context: AllocationContext) -> Allocation | None:
    """Every client trains all blocks at the rank that all can afford: the smallest of the clients' (FedIT)."""
    r, policies = affordable(context)
    return _everywhere(context, min(r, weakest_rank(context.federation)), policies)


def weakest_rank(federation: Federation) -> int:
    """Return the smallest rank of the tiers that can train at all; 0 if none can."""
    ranks = [affordable(AllocationContext(client, federation, 0))[0] for client in federation.one_of.values()]
    return min((r for r in ranks if r), default=0)


def common_rank_B(context: AllocationContext) -> Allocation | None:
    """Like ``common_rank``, but A stays as it was drawn and only B trains (FFA-LoRA)."""
    found = common_rank(context)
    return None if found is None else replace(found, factors="B")


def common_rank_alternating(context: AllocationContext) -> Allocation | None:
    """Like ``common_rank``, but B trains in rounds 0, 2, … and A in the others (RoLoRA).

    B goes first: while it is zero, A has no gradient.
    """
    found = common_rank(context)
    return None if found is None else replace(found, factors="A" if context.round % 2 else "B")


def pruned_rank(context: AllocationContext) -> Allocation | None:
    """The client's own rank, or what it was pruned to since (HetLoRA)."""
    r, policies = affordable(context)
    pruned = context.method_state.get(f"rank/{context.client.id}")
    return _everywhere(context, r if pruned is None else min(r, int(pruned)), policies)


def random_components(context: AllocationContext) -> Allocation | None:
    """r_k of the R rank-1 components of each block, drawn anew for each client and round (Fed-PLoRA).

    The blocks' draws are independent; the other components are folded.
    """
    found = own_rank(context)
    if found is None:
        return None
    rng, R = context.rng(), context.federation.rank
    drawn = (np.sort(rng.choice(R, size=r, replace=False)) for r in found.ranks)
    return replace(found, components=tuple(tuple(own.tolist()) for own in drawn))


def ranks_by_fisher(
    context: AllocationContext, *, warmup: Whole = 5, rank_min: Positive = 1, alternate: bool = True
) -> Allocation | None:
    """Ranks per block in proportion to the Fisher scores, within a budget of r_k for each block on average (HRALoRA).

    The first ``warmup`` rounds train A and B; later ones B in even and A in odd rounds. As one factor takes half the
    bytes, the published settings double the ranks then; here the budget is one of ranks throughout.

    Raises:
        ValueError: If no scores were computed yet.
    """
    found = own_rank(context)
    if found is None:
        return None
    if context.scores is None:
        raise ValueError("ranks by Fisher scores need scores; none were computed before this round")
    L, R, t = context.federation.num_blocks, context.federation.rank, context.round
    factors: Factors = "AB" if t < warmup or not alternate else "A" if t % 2 else "B"
    budget, costs = means(context)
    for r in range(found.ranks[0], 0, -1):
        ranks = share_ranks(context.scores, r * L, min(rank_min, r), R)
        shared = replace(found, ranks=ranks, factors=factors)
        # An unequal share of the same number of ranks may hold more gradients at once.
        if budget.only_counts or costs is None or needs(costs, shared).within(replace(budget, blocks=None)):
            return shared
    return None


def share_ranks(scores: Sequence[float], total: int, least: int, most: int) -> tuple[int, ...]:
    """Share a number of ranks among blocks in proportion to their scores.

    Args:
        scores: Γ ≥ 0, length L.
        total: Ranks to share, within L·least … L·most.
        least: r_min of every block.
        most: R.

    Returns:
        Integers that sum to ``total``, each within ``least`` … ``most``; what rounding leaves over goes to the highest
        scores that have room.

    Example:
        >>> share_ranks((1.0, 3.0, 0.0), total=12, least=1, most=8)
        (3, 8, 1)
    """
    Γ = np.asarray(scores, dtype=np.float64)
    shares = Γ * total / Γ.sum() if Γ.sum() > 0 else np.full(len(Γ), total / len(Γ))
    ranks = np.clip(np.floor(shares).astype(int), least, most)
    highest_first = np.argsort(-Γ, kind="stable")
    while ranks.sum() != total:
        step = 1 if ranks.sum() < total else -1
        order = highest_first if step > 0 else highest_first[::-1]
        room = next(l for l in order if least <= ranks[l] + step <= most)
        ranks[room] += step
    return tuple(int(r) for r in ranks)
