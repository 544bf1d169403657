"""What a few seeds say: means, paired differences, and when a target was reached. Pure numbers, no run and no disk."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95
TARGET_SHARE = 0.98
"""The target unless one is given, as a share of the best method's accuracy."""

ROUNDING = 1e-12
"""Differences of accuracies that are this close are equal: what separates them is floating-point rounding."""


@dataclass(frozen=True)
class Spread:
    """Numbers over seeds, in short.

    Attributes:
        n: How many there are.
        mean: Their mean; None where there is none.
        deviation: Their sample standard deviation; None for fewer than two.
    """

    n: int
    mean: float | None
    deviation: float | None


def spread(values: Sequence[float | None]) -> Spread:
    """Return mean and standard deviation of the values that are there.

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


@dataclass(frozen=True)
class PairedDifference:
    """A method's accuracy minus the reference's, seed by seed.

    Attributes:
        n: Seeds that both have.
        mean: Mean difference; None without a common seed.
        low: Lower end of the Student-t interval of the mean; None where the seeds give none.
        high: Its upper end.
        verdict: What that says, in words.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


def paired_difference(method: Mapping[int, float], reference: Mapping[int, float]) -> PairedDifference:
    """Compare two methods on the seeds that they share.

    Args:
        method: Seed → accuracy.
        reference: Likewise, of what it is compared with.

    Returns:
        The mean difference with its 95 % interval: mean ± t(n − 1)·s/√n.
    """
    differences = [method[seed] - reference[seed] for seed in sorted(method.keys() & reference.keys())]
    found = spread(differences)
    if found.mean is None:
        return PairedDifference(0, None, None, None, "no seed in common")
    if found.deviation is None:
        return PairedDifference(1, found.mean, None, None, "one seed carries no comparison")
    if found.deviation < ROUNDING and abs(found.mean) > ROUNDING:
        # The formula would give an interval of width zero, and with it a certainty that no two seeds carry.
        return PairedDifference(found.n, found.mean, None, None, f"the same difference in all {found.n} seeds")
    half = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2)) * found.deviation / math.sqrt(found.n)
    low, high = found.mean - half, found.mean + half
    verdict = "better" if low > 0 else "worse" if high < 0 else f"not told apart by {found.n} seeds"
    return PairedDifference(found.n, found.mean, low, high, verdict)


def chance_words(comparisons: int) -> str:
    """Say how likely chance finds are among several comparisons with one reference; empty for fewer than two.

    Example:
        >>> chance_words(1)
        ''
        >>> chance_words(3)[-5:]
        '14 %.'
    """
    if comparisons < 2:
        return ""
    # As if they were independent; that they share a reference makes it less, if anything.
    chance = 100 * (1 - CONFIDENCE**comparisons)
    return (
        f"{comparisons} methods against one reference make chance finds likelier: even if none differed, the chance "
        f"that at least one were called better or worse could be as high as {chance:.0f} %."
    )


def default_target(accuracies: Mapping[str, Sequence[float]]) -> float:
    """Return ``TARGET_SHARE`` of the best method's mean.

    Args:
        accuracies: Method → its accuracy in each seed; not empty.
    """
    return TARGET_SHARE * max(statistics.fmean(values) for values in accuracies.values())


def first_at_least(accuracies: Sequence[float], target: float) -> int | None:
    """Return the first position whose accuracy reaches the target, None if none does.

    Example:
        >>> first_at_least([0.5, 0.7, 0.6], 0.6)
        1
    """
    return next((t for t, accuracy in enumerate(accuracies) if accuracy >= target), None)
