"""The co-design that the paper calls Fed-HeLLo: a randomised geometric warm start, then Fisher scores.

    rounds 0 … warmup−1                      RGD-HLA
    rounds warmup, warmup + refresh, …       Γ is computed anew, then FIM-HLA
    the rounds in between                    FIM-HLA with the last Γ

In the published code Γ serves only in the very round that computed it, and all other rounds fall back to
RGD-HLA; ``persist=False`` does the same.
"""

from typing import Annotated

from pydantic import Field

from fedhello.allocation.fisher import Clusters, fim_hla
from fedhello.allocation.geometric import PatternChoice, TierWeighting, rgd_hla
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation

Warmup = Annotated[int, Field(ge=0)]
Refresh = Annotated[int, Field(ge=1)]


def never(round: int) -> bool:
    """For methods that use no Fisher scores."""
    return False


def periodically(round: int, *, refresh: Refresh = 10) -> bool:
    """Whether FIM-HLA computes Γ anew: in round 0 and every ``refresh`` rounds after it."""
    return round % refresh == 0


def after_warmup(round: int, *, warmup: Warmup = 10, refresh: Refresh = 10) -> bool:
    """Whether Fed-HeLLo computes Γ anew: in round ``warmup`` and every ``refresh`` rounds after it."""
    return round >= warmup and (round - warmup) % refresh == 0


def fed_hello(
    context: AllocationContext,
    *,
    pattern: PatternChoice = "bottleneck",
    tier_weighting: TierWeighting = "equal",
    warmup: Warmup = 10,
    refresh: Refresh = 10,
    clusters: Clusters = 3,
    persist: bool = True,
) -> Allocation:
    """Fed-HeLLo: RGD-HLA before ``warmup``, FIM-HLA from then on (Fed-HeLLo, Algorithm 1)."""
    t = context.round
    by_fisher = t >= warmup if persist else after_warmup(t, warmup=warmup, refresh=refresh)
    if by_fisher:
        return fim_hla(context, clusters=clusters)
    return rgd_hla(context, pattern=pattern, tier_weighting=tier_weighting)
