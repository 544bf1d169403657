"""Explanations of an allocation for people who set budgets.

reasons   sentences: which limit binds, what the lowest block costs, what recomputation saves and takes
front     the Pareto front of memory, computation and number of trained blocks
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from fedhello.allocation.needs import Needs, most_flops, needs
from fedhello.allocation.pareto import pareto_front
from fedhello.allocation.planner import fixed_policies, least_memory, plan
from fedhello.costs import KEEP, ActivationRule, Costs
from fedhello.formatting import human_bytes
from fedhello.types import Allocation, Budget

STEPS = 16
"""Budgets that ``front`` tries between the least and the most memory."""


@dataclass(frozen=True)
class Point:
    """A point of the front: an allocation and its predicted cost."""

    allocation: Allocation
    needs: Needs


def reasons(
    allocation: Allocation, budget: Budget, preference: Sequence[float], costs: Costs, rule: ActivationRule
) -> list[str]:
    """Say why a client trains what it trains and not more.

    Args:
        allocation: The result of ``plan`` for the other arguments.
        budget: The client's budget.
        preference: v, length L.
        costs: Costs of the blocks.
        rule: Which policies are allowed.
    """
    found = [_why_not_more(allocation, budget, preference, costs, rule)]
    found += _why_no_higher_rank(allocation, budget, costs)
    found += _reach(allocation, costs)
    found += _trades(allocation, costs)
    return [sentence for sentence in found if sentence]


def _why_not_more(
    allocation: Allocation, budget: Budget, preference: Sequence[float], costs: Costs, rule: ActivationRule
) -> str:
    missing = [l for l in range(len(preference)) if l not in allocation.blocks and preference[l] > 0]
    if not missing:
        return "every block that the method wants is trained"
    if budget.blocks is not None and len(allocation.blocks) >= budget.blocks:
        return f"the budget counts {budget.blocks} blocks"
    if budget.only_counts:  # then only what trains as it is has been measured
        return "the method asks for no more"
    l = max(missing, key=lambda block: (preference[block], -block))
    blocks = tuple(sorted((*allocation.blocks, l)))
    least = needs(costs, least_memory(blocks, costs, rule))
    fastest = needs(costs, Allocation(blocks, fixed_policies(rule, blocks, len(preference))))
    over = []
    if budget.memory is not None and least.memory_bytes > budget.memory:
        over.append(f"{human_bytes(least.memory_bytes)} of memory")
    if budget.upload is not None and least.upload_bytes > budget.upload:
        over.append(f"{human_bytes(least.upload_bytes)} of upload")
    if budget.speed and fastest.flops > most_flops(budget):
        over.append(f"{fastest.flops / budget.speed:.3g} s")
    if over:
        return f"block {l} as well, wanted next, would take at least {' and '.join(over)}"
    return f"block {l} as well, wanted next, fits each limit alone but not memory and time together"


def _why_no_higher_rank(allocation: Allocation, budget: Budget, costs: Costs) -> list[str]:
    """Say which limit keeps a client of rank r < R from rank r + 1."""
    r = max((len(allocation.held(l, costs.rank)) for l in allocation.blocks), default=costs.rank)
    if r >= costs.rank:
        return []
    if budget.rank == r:
        return [f"the budget counts rank {r} of {costs.rank}"]
    more = replace(allocation, ranks=(r + 1,) * len(costs.block_bytes), components=())
    if needs(costs, more).within(budget):
        return [f"the method asks for rank {r} of {costs.rank}"]
    there = needs(costs, more)
    return [
        f"rank {r + 1} would take {human_bytes(there.memory_bytes)} of memory, {human_bytes(there.upload_bytes)} up"
    ]


def _reach(allocation: Allocation, costs: Costs) -> list[str]:
    """Say how much memory the lowest block costs where frozen blocks lie directly above it."""
    if len(allocation.blocks) < 2:
        return []
    lowest, second = allocation.blocks[:2]
    if second == lowest + 1 or costs.forward:
        return []
    without = Allocation(
        allocation.blocks[1:], tuple(KEEP if l < second else p for l, p in enumerate(allocation.policies))
    )
    cost = needs(costs, allocation).peak_bytes - needs(costs, without).peak_bytes
    return [
        f"block {lowest} costs {human_bytes(cost)}, because back-propagation must reach it "
        f"through block{'s' * (second - lowest > 2)} {_spans(range(lowest + 1, second))}"
    ]


def _trades(allocation: Allocation, costs: Costs) -> list[str]:
    """Say how much memory recomputing and compressing save, and how much computation they add."""
    found = []
    for policy, word in (("recompute", "recomputing"), ("compress", "compressing")):
        chosen = [l for l, p in enumerate(allocation.policies) if p == policy]
        if not chosen:
            continue
        kept = replace(allocation, policies=tuple(KEEP if p == policy else p for p in allocation.policies))
        here, there = needs(costs, allocation), needs(costs, kept)
        more = here.flops / there.flops - 1
        found.append(
            f"{word} block{'s' * (len(chosen) > 1)} {_spans(chosen)} saves "
            f"{human_bytes(there.peak_bytes - here.peak_bytes)}"
            + (f" for {more:.0%} more computation" if policy == "recompute" else ", and rounds what backward sees")
        )
    return found


def _spans(blocks: Sequence[int]) -> str:
    """Write block numbers shortly: 1–3, 7."""
    runs = [[l for _, l in group] for _, group in groupby(enumerate(blocks), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def front(preference: Sequence[float], costs: Costs, rule: ActivationRule) -> list[Point]:
    """Return the Pareto front of memory × computation × blocks trained.

    For each n the n most preferred blocks are taken, and memory goes from the least that trains them to what the
    fastest way takes, in ``STEPS`` steps; a point is dropped if another trains as many blocks and is no worse.
    """
    order = sorted((l for l, v in enumerate(preference) if v > 0), key=lambda l: (-preference[l], l))
    found: list[Point] = []
    for n in range(0 if costs.head_shared else 1, len(order) + 1):
        wanted = tuple(1.0 if l in order[:n] else 0.0 for l in range(len(preference)))
        least = _point(least_memory(order[:n], costs, rule), costs)
        fastest = _point(plan(Budget(memory=2**62), wanted, costs, rule), costs)
        low, high = least.needs.memory_bytes, fastest.needs.memory_bytes
        between = [low + (high - low) * step // STEPS for step in range(1, STEPS)]
        found += [least, fastest, *(_point(plan(Budget(memory=m), wanted, costs, rule), costs) for m in between)]
    different = {_key(point): point for point in found}
    points = list(different.values())
    return [points[i] for i in pareto_front(list(different))]


def _point(allocation: Allocation, costs: Costs) -> Point:
    return Point(allocation, needs(costs, allocation))


def _key(point: Point) -> tuple[int, int, int]:
    """The three objectives, each to be minimised: memory, computation, −(number of trained blocks)."""
    return point.needs.memory_bytes, point.needs.flops, -len(point.allocation.blocks)
