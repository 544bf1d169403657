"""Head statistics: the clients' contributions to a solved head.

Client k sums the features h ∈ R^d of its samples once:

    n_c = its samples of class c,      S_c = Σ x over them  ∈ R^d,      G = Σ x xᵀ over all its samples

with x = h/√d, whose length is 1 if the features are pooled to one length. Every part is a sum over samples, so the sum
over the clients equals that of the pooled data for every split of the data (Fed3R, Fanì et al., arXiv 2406.01116; AFL,
He et al., arXiv 2405.16240; class means only: FedNCM, Legate et al., arXiv 2303.15361).

x is rounded to multiples of u = 2⁻¹² before it is summed, which changes a feature by about a thousandth of its size. S
is then an integer in units of u and G in units of u², so the sums are bit-identical for every partition and order, and
masks can be added to them. They are sent as 32-bit integers if they fit.

The kind of ``Moments`` decides which part of G is sent:

    full        the upper triangle, d(d + 1)/2 numbers
    diagonal    Σ x_i², d numbers
    sketch      the upper triangle of P G Pᵀ, where P ∈ R^{m×d} has orthonormal rows drawn from the run's seed, and the
                trace of G: m(m + 1)/2 + 1 numbers
    means       nothing: the server sums n_{k,c} μ_{k,c} μ_{k,c}ᵀ of the clients' class means, from which the covariance
                within classes is estimated without bias (FedCOF, Beitollahi et al., arXiv 2412.14326)

A client that does not trust the server leaves out classes of few samples. It also leaves out G where that would tell
its samples: G = XᵀX of n ≤ d rows of whole numbers has hardly more than one solution X, which lattice reduction finds
(LLL within seconds, measured up to n = 60 of d = 384). It sends Σ_c S_c S_cᵀ/n_c + t I instead, where t keeps the trace
of G: what S tells already, and a single number. The total is then as if its samples varied around their class means
alike in all directions.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Float64, Int, Num
from torch import Tensor

from fedhello.errors import UpdateError

UNIT = 2.0**-12
"""u: features are rounded to multiples of it."""

LONGEST_FEATURE = 1e6
"""Upper bound on ‖x‖, far above that of any model."""

PARTS = ("counts", "features", "moments", "cells")
"""Names of the parts of head statistics."""

MomentsKind = Literal["full", "diagonal", "sketch", "means"]


@dataclass(frozen=True)
class Moments:
    """The second moments that clients send.

    Attributes:
        kind: ``full``, ``diagonal``, ``sketch`` or ``means``; see the module.
        size: m of a sketch.
        seed: Seed of a sketch's projection.
    """

    kind: MomentsKind = "full"
    size: int = 0
    seed: int = 0

    def numbers(self, d: int) -> int:
        """Return how many numbers of G are sent for features of size d."""
        m = self.size
        return {"full": d * (d + 1) // 2, "diagonal": d, "sketch": m * (m + 1) // 2 + 1, "means": 0}[self.kind]

    def width(self, d: int) -> int:
        """Return the rows of the matrix that is sent, or whose diagonal is, for features of size d."""
        return self.size if self.kind == "sketch" else d

    def projection(self, d: int) -> Float64[Tensor, "{self.size} {d}"]:
        """Return P of a sketch, float64, shape (m, d), with orthonormal rows."""
        drawn = torch.randn(d, self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed))
        Q: Tensor = torch.linalg.qr(drawn).Q
        return Q.T.contiguous()


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of the head statistics, the same for every client.

    Attributes:
        moments: The second moments to send.
        least: A client leaves out classes with fewer samples; with 2, no sum is of a single sample.
        own_least: The same by the choice of the client's owner; the larger one counts.
        enough: A client with no more samples than these, or than ``features``, sends of G the trace alone; None sends
            G.
    """

    moments: Moments = Moments()
    least: int = 1
    own_least: int = 1
    enough: int | Literal["features"] | None = None

    def kept(self, counts: Int[Tensor, " C"]) -> Bool[Tensor, " C"]:
        """Return which classes are in the sums, for a client's samples by class."""
        return (counts > 0) & (counts >= max(self.least, self.own_least))

    def sends_moments(self, counts: Int[Tensor, " C"], d: int) -> bool:
        """Whether second moments are sent as they are, for a client's samples by class and features of size d.

        They are not where the server's ``least`` leaves out more than the owner's: two such requests would differ by
        the moments of a few samples.
        """
        if self.enough is None or self.moments.kind == "means":
            return True
        kept, own = self.kept(counts), replace(self, least=1).kept(counts)
        most = self.moments.width(d) if self.enough == "features" else self.enough
        return bool((kept == own).all()) and int(counts[kept].sum()) > most


DEFAULT_STATISTICS: Final = StatisticsSettings()
"""All second moments, and all classes."""


@dataclass(frozen=True)
class HeadSums:
    """Head statistics of one client, or the sum over several.

    Attributes:
        counts: n, int64, shape (C,).
        features: S in units of u, int64, shape (C, d).
        moments: G in units of u², int64, shape (``Moments.numbers``,); for summed ``means``, float64, the upper
            triangle of Σ_k Σ_c S_{k,c} S_{k,c}ᵀ / n_{k,c}.
        cells: K_c, the number of clients with samples of class c; int64, shape (C,).
    """

    counts: Num[Tensor, " C"]
    features: Num[Tensor, "C d"]
    moments: Num[Tensor, " _"]
    cells: Num[Tensor, " C"]


def like(num_labels: int, d: int, moments: Moments) -> dict[str, Tensor]:
    """Return meta tensors (without values) of the shapes and type of the sums that clients send."""
    shapes = {"counts": (num_labels,), "features": (num_labels, d), "moments": (moments.numbers(d),)}
    return {name: torch.empty(shape, dtype=torch.int64, device="meta") for name, shape in shapes.items()}


def head_sums(
    h: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_labels: int, settings: StatisticsSettings
) -> HeadSums:
    """Return the head statistics of one client.

    Args:
        h: Features, shape (n, d).
        labels: Integers within 0 … C−1, shape (n,).
        num_labels: C.
        settings: The moments to sum, and which classes are left out.
    """
    d, every = h.shape[1], torch.bincount(labels, minlength=num_labels)
    kept = settings.kept(every)[labels]
    h, labels = h[kept], labels[kept]
    x = (h.double() / (d**0.5 * UNIT)).round()
    S = torch.zeros(num_labels, d, dtype=torch.float64).index_add_(0, labels, x)
    counts = torch.bincount(labels, minlength=num_labels)
    moments = settings.moments
    G = _second_moments(x, moments) if settings.sends_moments(every, d) else _even_moments(x, S, counts, moments)
    return HeadSums(counts, S.long(), G.long(), (counts > 0).long())


def _second_moments(x: Float64[Tensor, "n d"], moments: Moments) -> Float64[Tensor, " _"]:
    """Return the second moments to send, in units of u²: exact integers as float64."""
    match moments.kind:
        case "full":
            return packed(x.T @ x)
        case "diagonal":
            return x.square().sum(dim=0)
        case "sketch":
            y = (x @ moments.projection(x.shape[1]).T).round()
            return torch.cat([packed(y.T @ y), x.square().sum().reshape(1)])
        case "means":
            return x.new_zeros(0)


def _even_moments(
    x: Float64[Tensor, "n d"], S: Float64[Tensor, "C d"], counts: Int[Tensor, " C"], moments: Moments
) -> Float64[Tensor, " _"]:
    """Return Σ_c S_c S_cᵀ/n_c + t I, with the trace of the second moments, in their form: whole numbers as float64."""
    present, d = counts > 0, x.shape[1]
    centres = S[present] / counts[present].double().sqrt().unsqueeze(1)
    t = (x.square().sum() - centres.square().sum()).clamp(min=0) / d
    found = _second_moments(centres, moments)
    match moments.kind:
        case "full":
            found += t * packed(torch.eye(d, dtype=torch.float64))
        case "diagonal":
            found += t
        case _:  # a sketch: P I Pᵀ = I
            m = moments.size
            found += t * torch.cat([packed(torch.eye(m, dtype=torch.float64)), torch.tensor([d], dtype=torch.float64)])
    return found.round()


def packed(G: Num[Tensor, "m m"]) -> Num[Tensor, " m*(m+1)//2"]:
    """Return the upper triangle of a symmetric matrix (m, m) row by row, shape (m(m + 1)/2,)."""
    i, j = torch.triu_indices(*G.shape)
    return G[i, j]


def unpacked(triangle: Num[Tensor, " {m}*({m}+1)//2"], m: int) -> Float64[Tensor, "{m} {m}"]:
    """Return the symmetric matrix (m, m) of an upper triangle, float64."""
    G = torch.zeros(m, m, dtype=torch.float64)
    i, j = torch.triu_indices(m, m)
    G[i, j] = triangle.double()
    G[j, i] = triangle.double()
    return G


def as_sent(sums: HeadSums) -> dict[str, Tensor]:
    """Return the tensors to send: int32 if all values fit, else int64."""
    parts = {"counts": sums.counts, "features": sums.features, "moments": sums.moments}
    return {name: value.int() if _fits(value) else value for name, value in parts.items()}


def _fits(value: Int[Tensor, "..."]) -> bool:
    return value.numel() == 0 or int(value.abs().max()) < 2**31


def as_received(tensors: Mapping[str, Tensor]) -> HeadSums:
    """Return the sums of received tensors; the inverse of ``as_sent``."""
    counts = tensors["counts"].long()
    return HeadSums(counts, tensors["features"].long(), tensors["moments"].long(), (counts > 0).long())


def check_sums(
    sums: HeadSums, samples: int, longest: float = LONGEST_FEATURE, classes: Collection[int] | None = None
) -> None:
    """Check that sums are possible for what their client declared.

    Args:
        sums: The sums of one client.
        samples: n_k, the declared number of samples.
        longest: An upper bound on ‖x‖.
        classes: The classes that the client declared; None for any.

    Raises:
        UpdateError: Unless n_c ≥ 0, n_c = 0 for classes that it did not declare, Σ_c n_c ≤ n_k, ‖S_c‖ ≤ n_c‖x‖, and
            the moments have a norm of at most √2 Σ_c n_c ‖x‖². (‖Σ x xᵀ‖ ≤ Σ ‖x‖² in the Frobenius norm; a sketch has
            the trace besides.)
    """
    n, S, G = sums.counts, sums.features.double() * UNIT, sums.moments.double() * UNIT**2
    # Each count is checked, too, since a sum of 64-bit integers can overflow.
    if bool(((n < 0) | (n > samples)).any()) or int(n.sum()) > samples:
        raise UpdateError(f"expected class counts of at most {samples} samples; found {n.tolist()}", "wrong count")
    odd = [] if classes is None else sorted(set(n.nonzero().flatten().tolist()) - set(classes))
    if odd:
        raise UpdateError(f"expected counts in the declared classes, {list(classes or ())}; found {odd}", "wrong count")
    if bool((S.norm(dim=1) > n * longest).any()) or float(G.norm()) > 2**0.5 * float(n.sum()) * longest**2:
        raise UpdateError("expected sums possible for the declared samples; found larger ones", "out of bounds")


def longest_pooled(d: int) -> float:
    """Return an upper bound on ‖x‖ of features pooled to one length, after rounding."""
    return 1 + UNIT * math.sqrt(d)


def add_up(parts: Iterable[HeadSums], moments: Moments) -> HeadSums:
    """Return the sum of clients' contributions, given in ascending client id; only the total is held in memory.

    Raises:
        ValueError: If there is no contribution.
    """
    total: HeadSums | None = None
    for part in parts:
        summed = _summed(part, moments)
        total = summed if total is None else plus(total, summed)
    if total is None:
        raise ValueError("expected head statistics of at least one client; found none")
    return total


def without(total: HeadSums, part: HeadSums, moments: Moments) -> HeadSums:
    """Return a total without one client's contribution.

    The result is bit-identical to a total that never contained it (except for ``means``, whose products are not
    integers).
    """
    return plus(total, _summed(part, moments), -1)


def faded(total: HeadSums, share: float) -> HeadSums:
    """Return a total multiplied by a share within 0 … 1, float64, to weigh it less than newer sums."""
    return HeadSums(**{name: getattr(total, name).double() * share for name in PARTS})


def scaled_to(sums: HeadSums, most: int | None) -> HeadSums:
    """Return one client's sums as those of at most so many samples: all multiplied by one factor, float64.

    Sums over no more samples stay as they are.

    Args:
        sums: Of one client.
        most: The most samples; None for no limit.
    """
    total = float(sums.counts.sum())
    return sums if most is None or total <= most else replace(faded(sums, most / total), cells=sums.cells)


def plus(one: HeadSums, other: HeadSums, sign: int = 1) -> HeadSums:
    """Return the sum of two totals, or with sign −1 their difference."""
    return HeadSums(**{name: getattr(one, name) + sign * getattr(other, name) for name in PARTS})


def _summed(part: HeadSums, moments: Moments) -> HeadSums:
    """Return a contribution in the form that can be added; for ``means`` with the products of its class means."""
    if moments.kind != "means":
        return part
    present = part.counts > 0
    mean = part.features[present].double() / part.counts[present].double().sqrt().unsqueeze(1)
    return replace(part, moments=packed(mean.T @ mean))
