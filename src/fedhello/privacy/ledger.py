"""The ledger of differential privacy: what a run has released, and the ε at δ of all of it together.

A mechanism M is (ε, δ)-differentially private for clients if for every federation X, every client k, and every set of
outcomes O,

    P(M(X) ∈ O) ≤ e^ε P(M(X') ∈ O) + δ        and the same the other way round,

where X' is X with k *counted as nothing*: zeros take the place of all that its data contributes, and it is invited as
before. That it is there, and how many clients there are, is known. For samples, one sample of a client is counted so.

A release is a sum over clients, each with a vector of length at most C, plus Gaussian noise of standard deviation σC in
every coordinate. ``noise`` is σ, the noise multiplier. In a round of Poisson sampling each client is part of the sum
with probability q, independently. ε of all releases together is that of their composed privacy loss distributions
(Koskela et al., arXiv 1906.03049), discretised so that it is never too small, by the package ``dp-accounting``;
releases without sampling compose to one Gaussian (1/σ² adds up), whose ε the package knows in closed form (Balle and
Wang, arXiv 1805.06530).

Where single samples are protected, read "sample" for "client" above. A sample is at one client alone, so releases of
one client's data each compose in parallel: ε is the largest over clients, of what is of all and of its own together.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedhello.errors import PrivacyError
from fedhello.state import Release, Unit

FORMAT = 1
"""Format of a ledger in files; it rises with changes that earlier versions of fedhello cannot read."""

INTERVAL = 1e-3
"""Width of the discretised privacy loss; rounding adds at most so much per release to the loss, never subtracts."""

TOLERANCE = 1e-3
"""Relative width at which the search for a noise multiplier ends; its upper end is taken."""

LEAST_NOISE = 0.02
"""Smaller noise multipliers are not worth the name: ε of one release would be above a thousand."""

UNITS: dict[Unit, tuple[str, str]] = {
    "client": ("clients", "all data of any one client"),
    "sample": ("single samples", "any one sample of a client"),
}
"""What is protected, and what of it may be counted as nothing, in words."""

SLACK = 1e-6
"""ε above the budget by so much, relatively, is rounding."""

Counts = tuple[tuple[tuple[float, float], int], ...]
"""(σ, q) → how often, as pairs in ascending order."""


@dataclass(frozen=True)
class Planned:
    """A release, or several alike, whose noise is to be found.

    Attributes:
        name: What is released.
        share: Its share of the budget ε, > 0.
        rate: q, the probability that a client is part of it.
        times: How often.
    """

    name: str
    share: float
    rate: float = 1.0
    times: int = 1


@dataclass(frozen=True)
class Ledger:
    """The releases of a run against its budget.

    Attributes:
        budget: The largest ε.
        delta: δ.
        releases: What was released, in order of first occurrence; equal ones together.
        planned: Releases whose ε together is known to be within the budget.
        unit: What is protected.

    Example:
        >>> from fedhello.state import Release
        >>> ledger = Ledger(8.0, 1e-5).spent(Release("head", 1.0))
        >>> round(ledger.epsilon, 2)
        4.38
    """

    budget: float
    delta: float
    releases: tuple[Release, ...] = ()
    planned: tuple[Release, ...] = ()
    unit: Unit = "client"

    @property
    def epsilon(self) -> float:
        """ε at δ of everything released; 0 of nothing."""
        return epsilon_of(self.releases, self.delta)

    def check(self, release: Release) -> None:
        """Check that the budget covers one more release.

        Raises:
            PrivacyError: If it does not.
        """
        if _within((*self.releases, release), self.planned):
            return
        needed = epsilon_of((*self.releases, release), self.delta)
        if needed > self.budget * (1 + SLACK):
            raise PrivacyError(
                f"expected privacy.epsilon={self.budget:g} to cover {release.name}; found that ε would be {needed:.3g} "
                f"at δ={self.delta:g}, after {self.epsilon:.3g} so far. A larger budget needs a new run."
            )

    def spent(self, release: Release) -> "Ledger":
        """Return the ledger with one more release, after checking that the budget covers it.

        Raises:
            PrivacyError: If it does not.
        """
        self.check(release)
        alike = [replace(one, times=release.times) == release for one in self.releases]
        if not any(alike):
            return replace(self, releases=(*self.releases, release))
        pairs = zip(self.releases, alike, strict=True)
        releases = tuple(replace(one, times=one.times + release.times) if same else one for one, same in pairs)
        return replace(self, releases=releases)

    def words(self) -> str:
        """Return the guarantee as a sentence."""
        return guarantee(write_ledger(self))


def _within(releases: Iterable[Release], planned: Iterable[Release]) -> bool:
    """Whether releases are some of those that were planned, so that nothing needs to be computed."""
    left = _counted(planned)
    return all(times <= left.get(kind, 0) for one in _of_each(releases) for kind, times in _counted(one).items())


def _of_each(releases: Iterable[Release]) -> list[list[Release]]:
    """Return, for each client that releases are of alone, what concerns it: these, and those of all clients."""
    found = list(releases)
    of_all = [one for one in found if one.client is None]
    alone = sorted({one.client for one in found if one.client is not None})
    return [of_all + [one for one in found if one.client == k] for k in alone] or [of_all]


def _counted(releases: Iterable[Release]) -> dict[tuple[float, float], int]:
    """Return how often sums were released with each noise and rate."""
    counted: dict[tuple[float, float], int] = {}
    for one in releases:
        counted[one.noise, one.rate] = counted.get((one.noise, one.rate), 0) + one.times
    return counted


def epsilon_of(releases: Iterable[Release], delta: float) -> float:
    """Return ε at δ of releases together.

    Args:
        releases: Any number of them.
        delta: δ within 0 … 1.
    """
    each = {tuple(sorted(_counted(one).items())) for one in _of_each(releases)}
    return max(_epsilon(counted, delta) for counted in each if not any(_less(counted, other) for other in each))


def _less(counted: Counts, other: Counts) -> bool:
    """Whether all of some releases, and more, are among others."""
    found = dict(other)
    return counted != other and all(times <= found.get(kind, 0) for kind, times in counted)


@lru_cache(maxsize=512)
def _epsilon(counted: Counts, delta: float) -> float:
    if not counted:
        return 0.0
    if any(noise <= 0 for (noise, _), _ in counted):
        return math.inf
    # dp-accounting takes more than a second to import, which runs without privacy do not pay.
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    if all(rate == 1 for (_, rate), _ in counted):
        together = sum(times / noise**2 for (noise, _), times in counted) ** -0.5
        return float(dp_accounting.get_epsilon_gaussian(together, delta))
    accountant = PLDAccountant(value_discretization_interval=INTERVAL)
    for (noise, rate), times in counted:
        event: Any = dp_accounting.GaussianDpEvent(noise)
        accountant.compose(event if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, event), times)
    return float(accountant.get_epsilon(delta))


def calibrated(planned: Sequence[Planned], epsilon: float, delta: float) -> tuple[Release, ...]:
    """Return releases with the least noise that a budget covers.

    The noise of each is found in order: the first i of them together have the first i shares of ε, and all of them ε.

    Args:
        planned: At least one; their shares sum to 1.
        epsilon: The budget, > 0.
        delta: δ.

    Raises:
        PrivacyError: If shares are not positive or do not sum to 1.
    """
    if any(one.share <= 0 for one in planned) or abs(sum(one.share for one in planned) - 1) > 1e-9:
        found = {one.name: one.share for one in planned}
        raise PrivacyError(f"expected shares of the budget above 0 that sum to 1; found {found}")
    done: tuple[Release, ...] = ()
    part = 0.0
    for one in planned:
        part += one.share
        done = (*done, least_noise(done, one, min(part, 1.0) * epsilon, delta))
    return done


def least_noise(before: tuple[Release, ...], one: Planned, epsilon: float, delta: float) -> Release:
    """Return a release with the least noise for which all before and it have at most ε.

    Args:
        before: What is released before it.
        one: The release.
        epsilon: ε of all of them.
        delta: δ.
    """

    def at(noise: float) -> Release:
        return Release(one.name, noise, one.rate, one.times)

    def fits(noise: float) -> bool:
        return epsilon_of((*before, at(noise)), delta) <= epsilon

    enough = 1.0
    while not fits(enough):
        enough *= 2
    too_little = enough / 2
    while too_little > LEAST_NOISE and fits(too_little):
        enough, too_little = too_little, too_little / 2
    while enough / too_little > 1 + TOLERANCE:
        middle = math.sqrt(enough * too_little)
        enough, too_little = (middle, too_little) if fits(middle) else (enough, middle)
    return at(enough)


def write_ledger(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as it is in files, with its ε."""
    return {
        "format": FORMAT,
        "epsilon": ledger.epsilon,
        "budget": ledger.budget,
        "delta": ledger.delta,
        "unit": ledger.unit,
        "releases": write_releases(ledger.releases),
    }


def guarantee(values: Mapping[str, Any]) -> str:
    """Return the guarantee of a written ledger as a sentence.

    Args:
        values: As ``write_ledger`` returns them.
    """
    budget, delta = values["budget"], values["delta"]
    if not values["releases"]:
        return f"nothing of a client has been released; the budget is ε={budget:g} at δ={delta:g}"
    names = ", ".join(dict.fromkeys(one["name"] for one in values["releases"]))
    whom, what = UNITS[values.get("unit", "client")]
    known = (
        "; how many samples each client has is taken as known" if any("client" in o for o in values["releases"]) else ""
    )
    return (
        f"differentially private for {whom} with ε={values['epsilon']:.3g} at δ={delta:g} (budget {budget:g}; with "
        f"{what} counted as nothing, results are almost as likely{known}; released: {names})"
    )


def read_ledger(values: Any) -> Ledger:
    """Return a ledger read from a file; ε is computed again.

    Raises:
        PrivacyError: If the values are not a ledger, or a later version of fedhello wrote them in a newer format.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("format"), int) or values["format"] > FORMAT:
        found = values.get("format") if isinstance(values, Mapping) else type(values).__name__
        raise PrivacyError(f"expected a privacy ledger of format {FORMAT} or earlier; found {found!r}")
    try:
        budget, delta = (TypeAdapter(float).validate_python(values[name]) for name in ("budget", "delta"))
        unit = TypeAdapter(Unit).validate_python(values.get("unit", "client"))
        return Ledger(budget, delta, read_releases(values["releases"]), unit=unit)
    except (KeyError, ValidationError) as error:
        raise PrivacyError(f"expected a privacy ledger; {' '.join(str(error).split())[:200]}") from error


def write_releases(releases: Iterable[Release]) -> list[dict[str, Any]]:
    """Return releases as they are in files."""
    return [
        {"name": one.name, "noise": one.noise, "rate": one.rate, "times": one.times}
        | ({} if one.client is None else {"client": one.client})
        for one in releases
    ]


def read_releases(values: Any) -> tuple[Release, ...]:
    """Return releases read from a file.

    Raises:
        ValidationError: If the values are not releases.
    """
    return TypeAdapter(tuple[Release, ...]).validate_python(values)
