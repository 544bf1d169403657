"""The summary of a comparison, with the writer and the reader of ``comparison.json``.

Fields may be renamed in the code; names in ``comparison.json`` and ``results.csv`` do not change.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedhello.errors import RunFolderError
from fedhello.results.statistics import PairedDifference, Spread, TargetRule
from fedhello.types import Budget

FORMAT = 1
"""Format of ``comparison.json``; it rises with changes that earlier versions cannot read. 0.1.0 has none."""

JSON = dict[str, Any]


@dataclass(frozen=True)
class TunedRate:
    """The learning rate of one method, chosen on validation data.

    Attributes:
        rate: The rate with the best accuracy; the lowest of several.
        at_edge: Whether it is the first or the last of the grid, so that a better rate may lie outside.
        validation: Validation accuracy at each rate of the grid, 0 … 1; None if training diverged.
    """

    rate: float
    at_edge: bool
    validation: tuple[float | None, ...]


@dataclass(frozen=True)
class Tuning:
    """The tuning of a comparison's learning rates.

    Attributes:
        seed: The seed of all tuning runs.
        rounds: Number of rounds of a tuning run.
        rates: The grid, ascending.
        methods: Label → its rate.
    """

    seed: int
    rounds: int
    rates: tuple[float, ...]
    methods: Mapping[str, TunedRate]


@dataclass(frozen=True)
class CostToTarget:
    """Costs until the target is reached, of one run, or means over a method's seeds that reach it.

    Attributes:
        rounds: Number of rounds.
        bytes_up: Bytes that all clients sent until then.
        bytes_down: Bytes that all clients received until then.
        flops: FLOPs of the clients' training until then; None without a prediction.
    """

    rounds: float
    bytes_up: float
    bytes_down: float
    flops: float | None


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        method: The label of the method.
        seed: The run's seed.
        lr: Its learning rate.
        rounds: Number of its rounds.
        start: Test accuracy before training, 0 … 1.
        final: Test accuracy after the last round.
        mean_last_5: Mean test accuracy of the last five scored rounds.
        best_on_validation: Test accuracy of the round that was best on the validation data.
        bytes_up: Bytes that all clients sent.
        bytes_down: Bytes that all clients received.
        flops: FLOPs of the clients' training; None where nothing was predicted.
        to_target: Costs until the target is reached; None if the run does not reach it.
        wall_seconds: Seconds of the whole run.
        train_seconds: Seconds of the clients' training, added up.
        peak_bytes: Tier → the largest peak of a step in bytes; None if none was measured.
        at_equal_cost: Cost → test accuracy at each amount of it; None if even the start cost more.
    """

    method: str
    seed: int
    lr: float
    rounds: int
    start: float | None
    final: float | None
    mean_last_5: float | None
    best_on_validation: float | None
    bytes_up: int
    bytes_down: int
    flops: float | None
    to_target: CostToTarget | None
    wall_seconds: float
    train_seconds: float
    peak_bytes: tuple[float | None, ...]
    at_equal_cost: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class ComparedTier:
    """One tier over a method's seeds.

    Attributes:
        budget: The budget of each of its clients.
        peak_bytes: The largest peak of a step over all seeds, in bytes; None if none was measured.
    """

    budget: Budget
    peak_bytes: float | None


@dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison over its seeds.

    Attributes:
        method: The label of the method.
        seeds: The seeds of its runs, ascending.
        lr: Its learning rate.
        start: Test accuracy before training, 0 … 1.
        final: Test accuracy after the last round.
        mean_last_5: Mean test accuracy of the last five scored rounds.
        best_on_validation: Test accuracy of the round that was best on the validation data.
        bytes_up: Bytes that all clients sent, mean over seeds.
        bytes_down: Bytes that all clients received, mean over seeds.
        flops: FLOPs of the clients' training, mean over seeds; None where nothing was predicted.
        wall_seconds: Seconds of a run, mean over seeds.
        train_seconds: Seconds of the clients' training, added up, mean over seeds.
        reached_target: Number of seeds that reached the target.
        to_target: Mean costs until then; None if no seed reached it.
        at_equal_cost: Cost → test accuracy at each amount of it.
        domains: Domain → last test accuracy in it.
        tiers: One per tier.
    """

    method: str
    seeds: tuple[int, ...]
    lr: float
    start: Spread
    final: Spread
    mean_last_5: Spread
    best_on_validation: Spread
    bytes_up: float
    bytes_down: float
    flops: float | None
    wall_seconds: float
    train_seconds: float
    reached_target: int
    to_target: CostToTarget | None
    at_equal_cost: Mapping[str, tuple[Spread, ...]]
    domains: Mapping[str, Spread]
    tiers: tuple[ComparedTier, ...]


@dataclass(frozen=True)
class ComparisonSummary:
    """The summary of a comparison: accuracies within 0 … 1, bytes and seconds.

    Attributes:
        labels: The labels of the methods, in the order of the tables.
        seeds: All seeds of all methods, ascending.
        reference: The label that the others are compared with.
        target: The test accuracy until which costs are counted; None if no method is better than the start.
        target_rule: Where it comes from, see ``TargetRule``.
        start: The highest accuracy before training of all methods, each the mean over its seeds.
        confidence: The joint confidence of the intervals of all differences.
        model: The foundation model.
        data: The data set.
        metric: The metric of the accuracies.
        only_methods_differ: Whether the runs differ only in method and seed.
        test_samples: Number of test samples.
        equal_cost: Cost (``bytes_up``, ``flops``) → the amounts at which methods are compared, ascending; empty if a
            run has no value of the cost.
        tuning: The tuning of the learning rates; None without tuning.
        methods: One per label.
        differences: Label → mean of the last five scored rounds minus the reference's, for all but the reference.
        runs: All runs, by label and seed.
        notes: Notes for the reader.
        versions: Package → version, of the first run.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    reference: str
    target: float | None
    target_rule: TargetRule
    start: float
    confidence: float
    model: str
    data: str
    metric: str
    only_methods_differ: bool
    test_samples: int
    equal_cost: Mapping[str, tuple[int, ...]]
    tuning: Tuning | None
    methods: tuple[ComparedMethod, ...]
    differences: Mapping[str, PairedDifference]
    runs: tuple[ComparedRun, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        return {
            "format": FORMAT,
            "labels": list(self.labels),
            "seeds": list(self.seeds),
            "reference": self.reference,
            "target": self.target,
            "target_given": self.target_rule == "given",
            "target_rule": self.target_rule,
            "start": self.start,
            "confidence": self.confidence,
            "model": self.model,
            "data": self.data,
            "metric": self.metric,
            "only_methods_differ": self.only_methods_differ,
            "test_samples": self.test_samples,
            "equal_cost": {cost: list(amounts) for cost, amounts in self.equal_cost.items()},
            "tuning": None if self.tuning is None else _write_tuning(self.tuning),
            "methods": [_write_method(method) for method in self.methods],
            "differences": [_write_difference(label, found) for label, found in self.differences.items()],
            "runs": self.rows(),
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }

    def rows(self) -> list[dict[str, str | float | None]]:
        """Return one row per run, as in ``results.csv``."""
        return [_write_run(run, self.target, self.equal_cost) for run in self.runs]


def _write_run(run: ComparedRun, target: float | None, equal_cost: Mapping[str, Sequence[int]]) -> JSON:
    return {
        "method": run.method,
        "seed": run.seed,
        "lr": run.lr,
        "rounds": run.rounds,
        "start": run.start,
        "final": run.final,
        "mean_last_5": run.mean_last_5,
        "best_on_validation": run.best_on_validation,
        "bytes_up": run.bytes_up,
        "bytes_down": run.bytes_down,
        "flops": run.flops,
        "target": target,
        **_write_to_target(run.to_target),
        "wall_seconds": run.wall_seconds,
        "train_seconds": run.train_seconds,
        **{f"peak_bytes_tier_{g}": peak for g, peak in enumerate(run.peak_bytes)},
        **{
            f"accuracy_at_{cost}_{amount}": accuracy
            for cost, amounts in equal_cost.items()
            for amount, accuracy in zip(amounts, run.at_equal_cost[cost], strict=True)
        },
    }


def _write_method(method: ComparedMethod) -> JSON:
    return {
        "method": method.method,
        "seeds": list(method.seeds),
        "lr": method.lr,
        "start": _write_spread(method.start),
        "final": _write_spread(method.final),
        "mean_last_5": _write_spread(method.mean_last_5),
        "best_on_validation": _write_spread(method.best_on_validation),
        "bytes_up": method.bytes_up,
        "bytes_down": method.bytes_down,
        "flops": method.flops,
        "wall_seconds": method.wall_seconds,
        "train_seconds": method.train_seconds,
        "reached_target": method.reached_target,
        **_write_to_target(method.to_target),
        "at_equal_cost": {cost: [_write_spread(one) for one in found] for cost, found in method.at_equal_cost.items()},
        "domains": {name: _write_spread(found) for name, found in method.domains.items()},
        "tiers": [{"budget": tier.budget.limits, "peak_bytes": tier.peak_bytes} for tier in method.tiers],
    }


def _write_to_target(cost: CostToTarget | None) -> JSON:
    return {
        "rounds_to_target": None if cost is None else cost.rounds,
        "bytes_up_to_target": None if cost is None else cost.bytes_up,
        "bytes_down_to_target": None if cost is None else cost.bytes_down,
        "flops_to_target": None if cost is None else cost.flops,
    }


def _write_spread(found: Spread) -> JSON:
    return {"n": found.n, "mean": found.mean, "deviation": found.deviation}


def _write_difference(label: str, found: PairedDifference) -> JSON:
    return {
        "method": label,
        "n": found.n,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_adjusted": found.p_adjusted,
        "verdict": found.verdict,
    }


def _write_tuning(tuning: Tuning) -> JSON:
    return {
        "seed": tuning.seed,
        "rounds": tuning.rounds,
        "rates": list(tuning.rates),
        "methods": {
            label: {"rate": found.rate, "at_edge": found.at_edge, "validation": list(found.validation)}
            for label, found in tuning.methods.items()
        },
    }


@dataclass(frozen=True)
class Terms:
    """Settings of a comparison that are kept in its folder; everything else follows from the runs.

    Attributes:
        labels: The order of the methods.
        reference: The label that the others are compared with; None if nothing is written yet.
        target: The target accuracy that the user gave; None if it follows from the runs.
        tuning: The tuning of the learning rates; None without tuning.
    """

    labels: tuple[str, ...] = ()
    reference: str | None = None
    target: float | None = None
    tuning: Tuning | None = None


def read_terms(file: Path) -> Terms:
    """Return the settings in ``comparison.json``; empty settings if there is no file.

    Raises:
        RunFolderError: If it is not a comparison, or a later version of fedhello wrote it in a newer format.
    """
    if not file.is_file():
        return Terms()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        written = found.get("format", FORMAT)
        if not isinstance(written, int) or written > FORMAT:
            raise ValueError(f"it is of format {written!r}; this version of fedhello reads {FORMAT} or earlier")
        # Format 1 includes 0.1.0, which has no tuning.
        named = {name: found[name] for name in ("labels", "reference", "tuning") if name in found}
        target = found["target"] if found.get("target_given") else None
        return TypeAdapter(Terms).validate_python({**named, "target": target})
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise RunFolderError(
            f"expected a comparison in {file}; {said}. Remove it to start from the runs alone."
        ) from error
