"""Statistics over seeds: means, paired differences, and the first position that reaches a target."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
TARGET_SHARE = 0.98
"""The default target, as a share of the best method's accuracy, if that is above the start."""

TargetRule = Literal["given", "share", "halfway", "none"]
"""Where a target comes from: the user, ``TARGET_SHARE`` of the best method's accuracy, or the middle between the start
and that accuracy; ``none`` if no method is better than the start, so that there is no target."""

ROUNDING = 1e-12
"""Differences of accuracies this close are equal up to floating-point rounding."""


@dataclass(frozen=True)
class Spread:
    """Mean and deviation over seeds.

    Attributes:
        n: Number of values.
        mean: Their mean; None without values.
        deviation: Their sample standard deviation; None for fewer than two.
    """

    n: int
    mean: float | None
    deviation: float | None


def spread(values: Sequence[float | None]) -> Spread:
    """Return mean and standard deviation of the values that are not None.

    Example:
        >>> spread([1.0, 3.0, None])
        Spread(n=2, mean=2.0, deviation=1.4142135623730951)
    """
    there = [float(value) for value in values if value is not None]
    return Spread(
        len(there),
        statistics.fmean(there) if there else None,
        statistics.stdev(there) if len(there) > 1 else None,
    )


def interval(found: Spread) -> tuple[float, float] | None:
    """Return the Student-t interval of a mean at ``CONFIDENCE``, for one method by itself; None for fewer than two.

    Example:
        >>> [round(end, 3) for end in interval(spread([0.5, 0.6, 0.7]))]  # 0.6 ± 4.303 · 0.1 / √3
        [0.352, 0.848]
    """
    if found.mean is None or found.deviation is None:
        return None
    half = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2)) * found.deviation / math.sqrt(found.n)
    return found.mean - half, found.mean + half


@dataclass(frozen=True)
class PairedDifference:
    """A method's accuracy minus the reference's over common seeds, as one of several compared methods.

    Attributes:
        n: Number of common seeds.
        mean: Mean difference; None without a common seed.
        low: Lower end of the mean's interval; None with fewer than two seeds or equal differences. The intervals of
            all methods hold jointly with probability ``CONFIDENCE``.
        high: Upper end of the interval.
        p: p-value of the two-sided paired t test; None without an interval.
        p_adjusted: p-value adjusted over all methods by Holm.
        verdict: The conclusion in words.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    verdict: str


def paired_differences(
    methods: Mapping[str, Mapping[int, float]], reference: Mapping[int, float]
) -> dict[str, PairedDifference]:
    """Compare methods with one reference, each over the seeds in common.

    With m the number of methods that share at least two seeds, the intervals are Bonferroni's, mean ± t(n − 1)·s/√n at
    confidence 1 − 0.05/m, and the verdicts follow from Holm's adjusted p < 0.05: even if no method differed, the chance
    that any is called better or worse is at most 5 %. Holm finds no less than Bonferroni, so a method may be told apart
    although its interval holds 0.

    Args:
        methods: Method → seed → accuracy.
        reference: Seed → accuracy.
    """
    differences = {
        label: [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
        for label, values in methods.items()
    }
    m = sum(len(values) > 1 for values in differences.values())
    found = {label: _difference(values, m) for label, values in differences.items()}
    tested = [label for label, one in found.items() if one.p is not None]
    adjusted = holm([one.p for one in found.values() if one.p is not None], m)
    return found | {label: _judged(found[label], p) for label, p in zip(tested, adjusted, strict=True)}


def _difference(values: Sequence[float], m: int) -> PairedDifference:
    """Return the difference of one of m methods, without a verdict if there is a test."""
    found = spread(values)
    if found.mean is None:
        return PairedDifference(0, None, None, None, None, None, "no seed in common")
    if found.deviation is None:
        return PairedDifference(1, found.mean, None, None, None, None, "one seed carries no comparison")
    if found.deviation < ROUNDING and abs(found.mean) > ROUNDING:
        # The formula would give an interval of width zero, a certainty that so few seeds do not justify.
        verdict = f"the same difference in all {found.n} seeds"
        return PairedDifference(found.n, found.mean, None, None, None, None, verdict)
    error = found.deviation / math.sqrt(found.n)
    half = float(stdtrit(found.n - 1, 1 - (1 - CONFIDENCE) / (2 * m))) * error
    p = 2 * float(stdtr(found.n - 1, -abs(found.mean) / error)) if error else 1.0
    return PairedDifference(found.n, found.mean, found.mean - half, found.mean + half, p, None, "")


def _judged(found: PairedDifference, p_adjusted: float) -> PairedDifference:
    verdict = f"not told apart by {found.n} seeds"
    if p_adjusted < 1 - CONFIDENCE and found.mean is not None:
        verdict = "better" if found.mean > 0 else "worse"
    return replace(found, p_adjusted=p_adjusted, verdict=verdict)


def holm(p: Sequence[float], m: int) -> list[float]:
    """Adjust p-values by Holm's step-down (Holm, Scandinavian Journal of Statistics 6, 1979).

        p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)),        p_(1) ≤ p_(2) ≤ …

    Args:
        p: The p-values.
        m: Number of hypotheses, at least the number of p-values; a hypothesis without a p-value has p = 1.

    Example:
        >>> holm([0.04, 0.01, 0.03], 3)
        [0.06, 0.03, 0.06]
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (m - step) * p[i]))
        adjusted[i] = largest
    return adjusted


def default_target(best: float, start: float) -> tuple[float | None, TargetRule]:
    """Return a target accuracy that lies above the start, with its rule; None if nothing is better than the start.

    A target below the start would be reached by doing nothing.

    Args:
        best: The best method's accuracy.
        start: The highest accuracy before training.

    Example:
        >>> default_target(0.9, start=0.5), default_target(0.9, start=0.89), default_target(0.8, start=0.8)
        ((0.882, 'share'), (0.895, 'halfway'), (None, 'none'))
    """
    if best <= start + ROUNDING:
        return None, "none"
    share = TARGET_SHARE * best
    return (share, "share") if share > start else ((start + best) / 2, "halfway")


def first_at_least(accuracies: Sequence[float], target: float) -> int | None:
    """Return the first position whose accuracy reaches the target, None if none does.

    Example:
        >>> first_at_least([0.5, 0.7, 0.6], 0.6)
        1
    """
    return next((t for t, accuracy in enumerate(accuracies) if accuracy >= target), None)
