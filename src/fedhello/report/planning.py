"""Make the plan of a prepared session from its allocations in the first round."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fedhello.allocation.needs import needs
from fedhello.allocation.reasons import Point, front, reasons
from fedhello.costs import Costs
from fedhello.engine.wire import encode_tensors
from fedhello.model.head import is_shared
from fedhello.report.labels import ClientPlan
from fedhello.report.noise import noise_plans
from fedhello.report.plan import Plan
from fedhello.report.plan_tiers import ExamplePlan, FrontPoint, PredictedNeeds, ServerPlan, TierPlan
from fedhello.runs.heads_said import statistics_costs
from fedhello.session import Session
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget

ROUNDS_SHOWN = 300
"""Number of draws for the shown frequencies of a randomised allocation."""


def make_plan(session: Session) -> Plan:
    """Return the plan of a prepared session; the session does not change.

    Each tier is described over its clients and ``ROUNDS_SHOWN`` draws of the first round's allocation, before any
    Fisher score; if the method needs scores, all blocks get equal scores. The example is the first draw.
    """
    federation = session.federation
    adapter = session.model.snapshot(share_head=is_shared(session.head.policy))
    return Plan(
        method=session.row.name,
        model=session.model.source.base_name,
        num_blocks=federation.num_blocks,
        rounds=session.settings.rounds,
        clients_per_round=federation.clients_per_round,
        download_bytes=len(encode_tensors(adapter.tensors)),
        tiers=tuple(_tier(session, g) for g in range(len(federation.tiers))),
        labels=tuple(session.labels),
        clients=tuple(
            ClientPlan(k, session.tier_of[k], int(row.sum()), tuple(row.tolist()))
            for k, row in enumerate(session.histogram)
            if session.private is None
        ),
        server=ServerPlan(len(session.server.validation), len(session.server.test), len(session.server.proxy)),
        head=statistics_costs(session) if session.private is None else None,
        notes=tuple(session.notes),
        noise=noise_plans(session),
    )


def _tier(session: Session, g: int) -> TierPlan:
    federation = session.federation
    budget = federation.tiers[g]
    draws = _draws(session, g, ROUNDS_SHOWN)
    nothing = TierPlan(g, session.tier_of.count(g), budget, takes_part=bool(draws))
    if not draws:
        return nothing
    counts = [len(draw.blocks) for draw in draws]
    found = replace(
        nothing,
        num_blocks=(min(counts), max(counts)),
        frequency=None if session.method.scores_due(0) else _frequency(draws, federation.num_blocks),
    )
    if not federation.costs:
        return found
    costs, first = federation.costs[g], draws[0]
    most = _most_needed(draws, budget, costs)
    # An allocator without preferences is taken to prefer the blocks that it allocated.
    preference = first.preference or tuple(2.0 if l in first.blocks else 1.0 for l in range(federation.num_blocks))
    points = () if budget.only_counts else front(preference, costs, federation.rule)
    return replace(
        found,
        needs=most,
        fraction=_fractions(most, budget),
        example=ExamplePlan(first, tuple(reasons(first, budget, preference, costs, federation.rule))),
        front=tuple(_point(point, costs) for point in points),
    )


def _most_needed(draws: Sequence[Allocation], budget: Budget, costs: Costs) -> PredictedNeeds:
    """Return the largest costs of any draw."""
    taken = [needs(costs, draw) for draw in set(draws)]
    flops = max(one.flops for one in taken)
    return PredictedNeeds(
        saved_bytes=max(one.saved_bytes for one in taken),
        peak_bytes=max(one.peak_bytes for one in taken),
        memory_bytes=max(one.memory_bytes for one in taken),
        flops=flops,
        upload_bytes=max(one.upload_bytes for one in taken),
        seconds=None if budget.speed is None else flops / budget.speed,
        relative_flops=flops / _everything(costs),
    )


def _fractions(most: PredictedNeeds, budget: Budget) -> dict[str, float]:
    limits = {
        "memory": (most.memory_bytes, budget.memory),
        "upload": (most.upload_bytes, budget.upload),
        "seconds": (most.seconds, budget.seconds),
    }
    return {name: used / limit for name, (used, limit) in limits.items() if used is not None and limit is not None}


def _everything(costs: Costs) -> int:
    """FLOPs of a round that trains all blocks and keeps all activations."""
    return needs(costs, Allocation(tuple(range(len(costs.block_bytes))))).flops


def _point(point: Point, costs: Costs) -> FrontPoint:
    return FrontPoint(
        num_blocks=len(point.allocation.blocks),
        policies=point.allocation.policies,
        memory_bytes=point.needs.memory_bytes,
        flops=point.needs.flops,
        relative_flops=point.needs.flops / _everything(costs),
        upload_bytes=point.needs.upload_bytes,
    )


def _draws(session: Session, tier: int, count: int) -> list[Allocation]:
    """Return allocations of a tier's clients in the first round, with equal scores if the method needs scores.

    Empty if the tier has no clients, or they do not take part.
    """
    federation = session.federation
    members = [client for client in federation.clients if client.tier == tier]
    if not members:
        return []
    scores = (1.0,) * federation.num_blocks if session.method.scores_due(0) else None
    drawn = (
        session.method.allocate(
            AllocationContext(members[t % len(members)], replace(federation, seed=federation.seed + t), 0, scores)
        )
        for t in range(count)
    )
    return [allocation for allocation in drawn if allocation is not None]


def _frequency(draws: Sequence[Allocation], num_blocks: int) -> tuple[float, ...]:
    counts = Counter(block for draw in draws for block in draw.blocks)
    return tuple(counts[block] / len(draws) for block in range(num_blocks))
