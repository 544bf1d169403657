"""The compared numbers of one run, and of one method over its seeds."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedhello.config.choices import rate_of
from fedhello.results.compared import ComparedMethod, ComparedRun, ComparedTier, CostToTarget
from fedhello.results.finished import Curve, FinishedRun, at_equal_cost
from fedhello.results.statistics import first_at_least, spread
from fedhello.runs.summary import TierSummary
from fedhello.types import Budget


def compared_run(run: FinishedRun, target: float | None, rungs: Mapping[str, Sequence[int]]) -> ComparedRun:
    """Return the compared numbers of one run.

    Args:
        run: The run.
        target: The test accuracy until which costs are counted; None counts none.
        rungs: Cost → the amounts at which runs are compared.
    """
    summary, curve = run.summary, run.curve
    at = None if target is None else first_at_least(curve.accuracy, target)
    return ComparedRun(
        method=run.label,
        seed=run.seed,
        lr=rate_of(run.config.train),
        rounds=summary.rounds,
        start=summary.start,
        final=summary.final,
        mean_last_5=summary.mean_last_5,
        best_on_validation=summary.best_on_validation,
        bytes_up=summary.bytes_up,
        bytes_down=summary.bytes_down,
        flops=None if curve.flops is None else curve.flops[-1],
        to_target=None if at is None else _cost_at(curve, at),
        wall_seconds=summary.wall_seconds,
        train_seconds=summary.train_seconds,
        peak_bytes=tuple(tier.measured_peak_bytes for tier in summary.tiers),
        at_equal_cost=at_equal_cost(run, rungs),
    )


def _cost_at(curve: Curve, at: int) -> CostToTarget:
    flops = None if curve.flops is None else curve.flops[at]
    return CostToTarget(curve.rounds[at], curve.bytes_up[at], curve.bytes_down[at], flops)


def compared_method(rows: Sequence[ComparedRun], group: Sequence[FinishedRun]) -> ComparedMethod:
    """Return the compared numbers of one method over its seeds.

    Args:
        rows: The compared numbers of its runs, at least one.
        group: The same runs.
    """
    reached = [row.to_target for row in rows if row.to_target is not None]
    return ComparedMethod(
        method=rows[0].method,
        seeds=tuple(row.seed for row in rows),
        lr=rows[0].lr,
        start=spread([row.start for row in rows]),
        final=spread([row.final for row in rows]),
        mean_last_5=spread([row.mean_last_5 for row in rows]),
        best_on_validation=spread([row.best_on_validation for row in rows]),
        bytes_up=fmean(row.bytes_up for row in rows),
        bytes_down=fmean(row.bytes_down for row in rows),
        flops=spread([row.flops for row in rows]).mean,
        wall_seconds=fmean(row.wall_seconds for row in rows),
        train_seconds=fmean(row.train_seconds for row in rows),
        reached_target=len(reached),
        to_target=_mean_cost(reached) if reached else None,
        at_equal_cost={
            cost: tuple(map(spread, zip(*(row.at_equal_cost[cost] for row in rows), strict=True)))
            for cost in rows[0].at_equal_cost
        },
        domains={
            name: spread([run.summary.domains[name] for run in group if name in run.summary.domains])
            for name in group[0].summary.domains
        },
        tiers=tuple(_compared_tier(tiers) for tiers in zip(*(run.summary.tiers for run in group), strict=True)),
    )


def _mean_cost(costs: Sequence[CostToTarget]) -> CostToTarget:
    return CostToTarget(
        fmean(cost.rounds for cost in costs),
        fmean(cost.bytes_up for cost in costs),
        fmean(cost.bytes_down for cost in costs),
        spread([cost.flops for cost in costs]).mean,
    )


def _compared_tier(tiers: Sequence[TierSummary]) -> ComparedTier:
    """Return one tier over a method's seeds: its budget, and the largest peak of all seeds."""
    peaks = [tier.measured_peak_bytes for tier in tiers if tier.measured_peak_bytes is not None]
    return ComparedTier(_budget(tiers[0].budget), max(peaks, default=None))


def _budget(limits: Mapping[str, Any]) -> Budget:
    return Budget(**limits)
