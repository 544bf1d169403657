"""GD-HLA and RGD-HLA: which blocks a client trains, by their position in the model (Fed-HeLLo).

For L blocks and capacity c a pattern names a set S_c ⊆ {0, …, L−1} with |S_c| = c:

    triangle            the first c
    inverted_triangle   the last c
    bottleneck          the first ⌈c/2⌉ and the last ⌊c/2⌋
    uniform             any c; the clients' sets rotate, so that every block is held equally often

GD-HLA gives every client its S_c for the whole run. RGD-HLA draws c blocks anew each round, with

    p_l = Σ_g 1[l ∈ S_g] / Σ_g |S_g|        over the tiers g,

so a block that many tiers could hold is drawn often.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from fedhello.types import Allocation, Federation, Situation

Pattern = Literal["triangle", "inverted_triangle", "bottleneck", "uniform"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
TierWeighting = Literal["equal", "clients"]


def allocate_blocks(pattern: Pattern, capacity: int, blocks: int, start: int = 0) -> tuple[int, ...]:
    """Return S_c, the blocks that a pattern gives to a client of a certain capacity.

    Args:
        pattern: One of ``PATTERNS``.
        capacity: c, with 0 ≤ c ≤ L.
        blocks: L ≥ 1.
        start: For ``uniform`` only: the first block of the set, which runs on cyclically.

    Returns:
        c different blocks, ascending.

    Raises:
        ValueError: If the pattern is unknown or c is not within 0 … L.

    Example:
        >>> allocate_blocks("bottleneck", capacity=5, blocks=12)
        (0, 1, 2, 10, 11)
    """
    if not 0 <= capacity <= blocks:
        raise ValueError(f"a capacity must lie within 0 and {blocks}, the number of blocks; found {capacity}")
    match pattern:
        case "triangle":
            chosen = [*range(capacity)]
        case "inverted_triangle":
            chosen = [*range(blocks - capacity, blocks)]
        case "bottleneck":
            tail = capacity // 2
            chosen = [*range(capacity - tail), *range(blocks - tail, blocks)]
        case "uniform":
            chosen = [(start + i) % blocks for i in range(capacity)]
        case _:
            raise ValueError(f"a pattern must be one of {', '.join(PATTERNS)}; found {pattern!r}")
    return tuple(sorted(chosen))


def block_probabilities(
    pattern: Pattern, capacities: Sequence[int], blocks: int, weights: Sequence[float] | None = None
) -> np.ndarray:
    """Return p, the probability of each block in RGD-HLA: p_l = Σ_g w_g 1[l ∈ S_g] / Σ_g w_g |S_g|.

    Args:
        pattern: One of ``PATTERNS``; ``uniform`` gives p_l = 1/L.
        capacities: c_g, one per tier, at least one of them > 0.
        blocks: L ≥ 1.
        weights: w_g ≥ 0, one per tier; None counts every tier once.

    Returns:
        Float64, shape (L,), sum 1. A block that no tier could hold has p_l = 0.

    Raises:
        ValueError: If a capacity is not within 0 … L or no tier can train a block.

    Example:
        >>> block_probabilities("bottleneck", (6, 9, 12), 12) * 27
        array([3., 3., 3., 2., 2., 1., 1., 1., 2., 3., 3., 3.])
    """
    w = np.ones(len(capacities)) if weights is None else np.asarray(weights, dtype=np.float64)
    held = np.zeros((len(capacities), blocks))
    for g, capacity in enumerate(capacities):
        held[g, list(allocate_blocks(pattern, capacity, blocks))] = 1
    total = float(w @ held.sum(axis=1))
    if total <= 0:
        raise ValueError("at least one tier must be able to train a block; found capacities " + str([*capacities]))
    if pattern == "uniform":
        return np.full(blocks, 1 / blocks)
    probabilities: np.ndarray = (w @ held) / total
    return probabilities


def draw_blocks(probabilities: np.ndarray, capacity: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw c different blocks, one after the other without replacement, with probabilities p.

    Args:
        probabilities: p, shape (L,), sum 1, with at least c entries above 0.
        capacity: c.
        rng: The client's generator for this round.

    Returns:
        c different blocks, ascending.
    """
    drawn = rng.choice(len(probabilities), size=capacity, replace=False, p=probabilities)
    return tuple(sorted(int(block) for block in drawn))


def gd_hla(situation: Situation, *, pattern: Pattern = "bottleneck") -> Allocation:
    """GD-HLA: every client keeps its pattern's blocks for the whole run (Fed-HeLLo).

    ``uniform`` starts each client's set where the set of the client before it ended, so over all clients
    every block is held equally often, give or take one.
    """
    client, federation = situation.client, situation.federation
    start = sum(other.budget.blocks for other in federation.clients if other.id < client.id)
    return Allocation(allocate_blocks(pattern, client.budget.blocks, federation.blocks, start % federation.blocks))


def rgd_hla(
    situation: Situation, *, pattern: Pattern = "bottleneck", tier_weighting: TierWeighting = "equal"
) -> Allocation:
    """RGD-HLA: c blocks drawn from the pattern's p, anew for each client and round (Fed-HeLLo).

    ``tier_weighting`` counts every tier once (``equal``, as published) or by its number of ``clients``.
    """
    p = tier_probabilities(situation.federation, pattern, tier_weighting)
    return Allocation(draw_blocks(p, situation.client.budget.blocks, situation.rng()))


def tier_probabilities(federation: Federation, pattern: Pattern, tier_weighting: TierWeighting) -> np.ndarray:
    """Return ``block_probabilities`` for a federation's tiers, shape (L,)."""
    members = [sum(client.tier == g for client in federation.clients) for g in range(len(federation.tiers))]
    weights = members if tier_weighting == "clients" else None
    return block_probabilities(pattern, [tier.blocks for tier in federation.tiers], federation.blocks, weights)
