"""GD-HLA and RGD-HLA: which blocks a client trains, by their position in the model (Fed-HeLLo).

For L blocks and capacity c a pattern names a set S_c ⊆ {0, …, L−1} with |S_c| = c:

    triangle            the first c
    inverted_triangle   the last c
    bottleneck          the first ⌈c/2⌉ and the last ⌊c/2⌋
    uniform             any c; the clients' sets rotate, so that every block is held equally often

GD-HLA gives every client its S_c for the whole run. RGD-HLA draws c blocks anew each round, with

    p_l = Σ_g 1[l ∈ S_g] / Σ_g |S_g|        over the tiers g,

so a block that many tiers could hold is drawn often.

Both return a preference v_l per block; ``allocation.planner`` turns it into an allocation: the c most preferred blocks
where the budget counts blocks, and the blocks of largest Σ v_l that fit where it counts bytes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from fedhello.allocation.planner import fit, plan_tiers
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget, Federation

Pattern = Literal["triangle", "inverted_triangle", "bottleneck", "uniform"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
PatternChoice = Pattern | Literal["auto"]
TierWeighting = Literal["equal", "clients"]


def allocate_blocks(pattern: Pattern, capacity: int, num_blocks: int, start: int = 0) -> tuple[int, ...]:
    """Return S_c, the blocks that a pattern gives to a client of a certain capacity.

    Args:
        pattern: One of ``PATTERNS``.
        capacity: c, with 0 ≤ c ≤ L.
        num_blocks: L ≥ 1.
        start: For ``uniform`` only: the first block of the set, which runs on cyclically.

    Returns:
        c different blocks, ascending.

    Raises:
        ValueError: If the pattern is unknown or c is not within 0 … L.

    Example:
        >>> allocate_blocks("bottleneck", capacity=5, num_blocks=12)
        (0, 1, 2, 10, 11)
    """
    if not 0 <= capacity <= num_blocks:
        raise ValueError(f"a capacity must lie within 0 and {num_blocks}, the number of blocks; found {capacity}")
    match pattern:
        case "triangle":
            chosen = [*range(capacity)]
        case "inverted_triangle":
            chosen = [*range(num_blocks - capacity, num_blocks)]
        case "bottleneck":
            tail = capacity // 2
            chosen = [*range(capacity - tail), *range(num_blocks - tail, num_blocks)]
        case "uniform":
            chosen = [(start + i) % num_blocks for i in range(capacity)]
        case _:
            raise ValueError(f"a pattern must be one of {', '.join(PATTERNS)}; found {pattern!r}")
    return tuple(sorted(chosen))


def block_probabilities(
    pattern: Pattern, capacities: Sequence[int], num_blocks: int, weights: Sequence[float] | None = None
) -> Float64[np.ndarray, " {num_blocks}"]:
    """Return p, the probability of each block in RGD-HLA: p_l = Σ_g w_g 1[l ∈ S_g] / Σ_g w_g |S_g|.

    Args:
        pattern: One of ``PATTERNS``; ``uniform`` gives p_l = 1/L.
        capacities: c_g, one per tier, at least one of them > 0.
        num_blocks: L ≥ 1.
        weights: w_g ≥ 0, one per tier; None counts every tier once.

    Returns:
        Float64, shape (L,), sum 1. A block that no tier could hold has p_l = 0.

    Raises:
        ValueError: If a capacity is not within 0 … L or no tier can train a block.

    Example:
        >>> block_probabilities("bottleneck", (6, 9, 12), 12) * 27
        array([3., 3., 3., 2., 2., 1., 1., 1., 2., 3., 3., 3.])
    """
    return set_probabilities(
        pattern, [allocate_blocks(pattern, c, num_blocks) for c in capacities], num_blocks, weights
    )


def set_probabilities(
    pattern: Pattern, sets: Sequence[Sequence[int]], num_blocks: int, weights: Sequence[float] | None = None
) -> Float64[np.ndarray, " {num_blocks}"]:
    """Return p as ``block_probabilities`` does, from the sets S_g themselves."""
    w = np.ones(len(sets)) if weights is None else np.asarray(weights, dtype=np.float64)
    held = np.zeros((len(sets), num_blocks))
    for g, S_g in enumerate(sets):
        held[g, list(S_g)] = 1
    total = float(w @ held.sum(axis=1))
    if total <= 0:
        raise ValueError(f"at least one tier must be able to train a block; found {[*map(len, sets)]} blocks")
    if pattern == "uniform":
        return np.full(num_blocks, 1 / num_blocks)
    probabilities: Float64[np.ndarray, " L"] = (w @ held) / total
    return probabilities


def pattern_preference(pattern: Pattern, num_blocks: int, start: int = 0) -> Float64[np.ndarray, " {num_blocks}"]:
    """Return how much a pattern prefers each block: v_l = L + 1 − min{c : l ∈ S_c}, so S_c are the c most preferred.

    Args:
        pattern: One of ``PATTERNS``.
        num_blocks: L ≥ 1.
        start: For ``uniform`` only: the first block of the set.

    Returns:
        Float64, shape (L,): L, L − 1, …, 1 in the order in which growing capacities take the blocks.

    Example:
        >>> pattern_preference("bottleneck", 5)
        array([5., 3., 1., 2., 4.])
    """
    v = np.zeros(num_blocks)
    for capacity in range(1, num_blocks + 1):
        v[list(allocate_blocks(pattern, capacity, num_blocks, start))] += 1
    return v


def draw_preference(probabilities: Float64[np.ndarray, " L"], rng: np.random.Generator) -> Float64[np.ndarray, " L"]:
    """Draw random preferences whose c largest are c blocks drawn from p without replacement, for every c.

    v_l = u_l^{1/(L p_l)} with u_l uniform on (0, 1) (Efraimidis & Spirakis 2006).

    Args:
        probabilities: p, shape (L,), sum 1.
        rng: The client's generator for this round.

    Returns:
        v, shape (L,), within [0, 1]; 0 where p_l = 0, and only there.
    """
    u = rng.random(len(probabilities))
    with np.errstate(divide="ignore"):
        v = np.exp(np.log(u) / (len(probabilities) * probabilities))
    return np.where(probabilities > 0, np.maximum(v, np.finfo(np.float64).tiny), 0.0)


def chosen_pattern(pattern: PatternChoice, tiers: Sequence[Budget]) -> tuple[Pattern, str]:
    """Return the pattern that ``auto`` chooses for the tiers' budgets, and a sentence with the reason.

    Measured (benchmarks/patterns.py): no pattern differs significantly in accuracy from the inverted triangle, which
    needs 40 to 70 % of the memory of the others and the least time, since backward stops at the lowest trained block.
    Patterns with lower blocks may end up to one point higher; the upload is the same for all.

    Args:
        pattern: One of ``PATTERNS``, which stays as it is, or ``auto``.
        tiers: What clients can afford.

    Example:
        >>> chosen_pattern("auto", [Budget(upload=10**6)])[0], chosen_pattern("auto", [Budget(memory=10**8)])[0]
        ('uniform', 'inverted_triangle')
    """
    if pattern != "auto":
        return pattern, "it is asked for"
    limits = {name for tier in tiers for name in ("blocks", "memory", "seconds") if getattr(tier, name) is not None}
    if limits or not any(tier.upload for tier in tiers):
        scarce = "numbers of blocks stand for memory and time" if limits == {"blocks"} else "memory or time is scarce"
        return "inverted_triangle", (
            f"{scarce}, the blocks next to the output need least of both, and no other pattern is surely more accurate"
        )
    return "uniform", "upload alone is scarce, of which all blocks need the same"


def gd_hla(context: AllocationContext, *, pattern: PatternChoice = "bottleneck") -> Allocation:
    """GD-HLA: every client keeps its pattern's blocks for the whole run (Fed-HeLLo).

    ``uniform`` starts each client's set where the set of the client before it ended, so over all clients
    every block is held equally often, give or take one.
    """
    client, federation = context.client, context.federation
    pattern, _ = chosen_pattern(pattern, federation.tiers)
    if pattern != "uniform":
        return fit(context, pattern_preference(pattern, federation.num_blocks))
    anywhere = pattern_preference(pattern, federation.num_blocks)
    start = 0
    for ids in federation.alike.values():
        if before := bisect_left(ids, client.id):
            one = replace(context, client=federation.by_id[ids[0]], excess=1.0)
            start += before * len(fit(one, anywhere).blocks)
    return fit(context, pattern_preference(pattern, federation.num_blocks, start % federation.num_blocks))


def rgd_hla(
    context: AllocationContext, *, pattern: PatternChoice = "bottleneck", tier_weighting: TierWeighting = "equal"
) -> Allocation:
    """RGD-HLA: blocks drawn from the pattern's p, anew for each client and round (Fed-HeLLo).

    ``tier_weighting`` counts every tier once (``equal``, as published) or by its number of ``clients``.
    """
    p = tier_probabilities(context.federation, pattern, tier_weighting)
    return fit(context, draw_preference(p, context.rng()))


def tier_probabilities(
    federation: Federation, pattern: PatternChoice, tier_weighting: TierWeighting
) -> Float64[np.ndarray, " {federation.num_blocks}"]:
    """Return RGD-HLA's p for a federation, shape (L,); S_g is what tier g can afford of the pattern.

    Uniform where no tier can afford a block.
    """
    pattern, _ = chosen_pattern(pattern, federation.tiers)
    weights = federation.members if tier_weighting == "clients" else None
    sets = plan_tiers(federation, pattern_preference(pattern, federation.num_blocks))
    if not any(sets):
        return np.full(federation.num_blocks, 1 / federation.num_blocks)
    return set_probabilities(pattern, sets, federation.num_blocks, weights)
