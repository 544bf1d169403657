"""Head statistics as one release with noise (differential privacy for clients).

Client k sums over its samples, with x = h/√d:

    v_k = (S, β n, γ G),        S_c = Σ x of class c,    n_c their number,    G = Σ x xᵀ only with ``moments``

(off-diagonal entries of G once, times √2, so that ‖G‖ is its Frobenius norm) and sends v_k min(1, C/‖v_k‖), rounded
towards zero. So one client, whatever its data and however many samples it has, changes the sum over clients by a vector
of length at most C: the sensitivity. The server adds Gaussian noise of deviation σC to every entry, also to those of
classes that nobody has, once; everything after that is computed from the noised sum and from the server's own data, and
costs no privacy.

The default C is the length of v of a single sample, so that nearly every client weighs the same.

Where single samples are protected (``unit``), v_i of each sample i is shortened by itself, and client k sends Σ_i v_i:
one sample changes the sum by a vector of length at most C, and a client weighs by its samples.

What the server makes of the noised sum, with the mean m and the covariance T of the features of its own samples (no
labels are used), and v_c = (σC/n_c)² the known variance of the noise in a class mean:

    n_c     at least ``FEWEST``
    μ_c     m + κT (κT + v_c I)⁻¹ (S_c/n_c − m)              the mean given the noisy one, with prior N(m, κT)
    Σ       I, so that the head is the nearest class mean; with ``moments`` that of G, eigenvalues below 0 set to 0

κ, the share of the variance that lies between classes, is estimated from the noisy means, and within ``BETWEEN``.

Without second moments, the head then labels the server's own samples i softly, z_ic = softmax of its logits, and is
solved again with them, ``ROUNDS`` times (self-training; it costs no privacy either, and uses no labels). With their
numbers N_c = Σ_i z_ic, means m_c, covariance within classes W and its mean variance s² = tr W/d,

    μ_c     (p_c S_c/n_c + ω N_c/s² m_c) / (p_c + ω N_c/s²),        p_c = 1/(v_c + s²/n_c)
    Σ       W about these means

where ω < 1, since a sample's soft label is worth less than a true one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.model.head import SHRINKAGES, Family, Head, Priors, Solver, family, solved_head
from fedhello.model.statistics import UNIT, HeadSums, Moments, packed, plus, unpacked
from fedhello.privacy.noise import factor, gaussian
from fedhello.privacy.rounds import PrivateRounds
from fedhello.privacy.samples import PrivateSteps
from fedhello.state import Release, Unit

COUNT_WEIGHT = 0.3
"""β: how much of a client's length its counts take; chosen of 0.1, 0.3, 1 in a prototype by the demo's test data."""

MOMENT_WEIGHT = 0.5
"""γ: likewise of its second moments."""

FEWEST = 1.0
"""A class counts as having at least so many samples."""

BETWEEN = 0.05, 1.0
"""Bounds of κ."""

SOFT = 0.3
"""ω; of 0.3 and 1, chosen in a prototype on ten other splits of the demo's data than the benchmark's."""

ROUNDS = 4
"""How often the server's own samples are labelled."""

HEAD, SCORES, ROUND, STEP = "head statistics", "Fisher scores", "rounds", "steps on single samples"
"""Names of the releases."""

WHOLE = Moments("full")
"""The kind of second moments that the repaired sums have."""


@dataclass(frozen=True)
class PrivateStatistics:
    """What a client contributes to the release.

    Attributes:
        clip: C, the largest length of a contribution of what is protected; None for that of one sample.
        moments: Whether second moments are part of it.
        unit: What is protected: whole clients, or single samples.
    """

    clip: float | None = None
    moments: bool = False
    unit: Unit = "client"

    @property
    def most(self) -> float:
        """C."""
        if self.clip is not None:
            return self.clip
        return math.sqrt(1 + COUNT_WEIGHT**2 + (MOMENT_WEIGHT**2 if self.moments else 0))

    @property
    def of_a_client(self) -> "PrivateStatistics":
        """The same for whole clients."""
        return replace(self, unit="client")


@dataclass(frozen=True)
class PrivatePlan:
    """The releases of a run under differential privacy.

    Attributes:
        epsilon: The budget.
        delta: δ.
        head: The one release for the head, with its noise.
        statistics: What clients contribute to it.
        rounds: How rounds are released; None if nothing trains.
        times: How many rounds the budget covers; with ``steps``, of one client.
        scores: The release of clients' Fisher scores in one round; None without such scores.
        scored: In how many rounds the budget covers it.
        steps: How clients train where single samples are protected; None if nothing trains, or whole clients are.
    """

    epsilon: float
    delta: float
    head: Release
    statistics: PrivateStatistics
    rounds: PrivateRounds | None = None
    times: int = 0
    scores: Release | None = None
    scored: int = 0
    steps: PrivateSteps | None = None

    @property
    def releases(self) -> tuple[Release, ...]:
        """Everything that the budget covers, of any one client."""
        found = [self.head]
        if self.scores is not None:
            found.append(replace(self.scores, times=self.scored))
        if self.rounds is not None:
            found.append(replace(self.rounds.release, times=self.times))
        if self.steps is not None:
            found.append(replace(self.steps.release, times=self.times * self.steps.steps))
        return tuple(found)


def private_sums(h: Tensor, labels: Tensor, num_labels: int, settings: PrivateStatistics) -> HeadSums:
    """Return one client's contribution: of length at most C, or where samples are protected a sum of one for each.

    All parts are whole numbers in units of u = 2⁻¹², so they can be masked, too; counts are in units of u/β. ``cells``
    are zeros, since they are not part of the release.

    Args:
        h: Features, shape (n, d); n may be 0.
        labels: Integers within 0 … C−1, shape (n,).
        num_labels: The number of classes.
        settings: What is part of it.
    """
    if settings.unit == "sample":
        ones = (private_sums(h[i : i + 1], labels[i : i + 1], num_labels, settings.of_a_client) for i in range(len(h)))
        nothing = private_sums(h[:0], labels[:0], num_labels, settings.of_a_client)
        return reduce(plus, ones, nothing)
    d = h.shape[1]
    x = h.double() / math.sqrt(d)
    S = torch.zeros(num_labels, d, dtype=torch.float64).index_add_(0, labels, x)
    counts = torch.bincount(labels, minlength=num_labels).double() * COUNT_WEIGHT
    G = _weighed(packed(x.T @ x), d) if settings.moments else x.new_zeros(0)
    length = math.sqrt(sum(float(part.square().sum()) for part in (S, counts, G)))
    f = factor(length, settings.most)
    n, features, moments = (
        (f * part / UNIT).trunc().long() if f else torch.zeros_like(part, dtype=torch.int64) for part in (counts, S, G)
    )
    return HeadSums(n, features, moments, torch.zeros(num_labels, dtype=torch.int64))


def _weighed(triangle: Tensor, d: int, back: bool = False) -> Tensor:
    """Return an upper triangle with γ√2 on off-diagonal and γ on diagonal entries; or the way back."""
    i, j = torch.triu_indices(d, d)
    weights = torch.full((len(i),), MOMENT_WEIGHT * math.sqrt(2), dtype=torch.float64)
    weights[i == j] = MOMENT_WEIGHT
    return triangle / weights if back else triangle * weights


def length_of(sums: HeadSums) -> float:
    """Return ‖v‖ of a contribution, or of a difference of sums."""
    parts = sums.counts, sums.features, sums.moments
    return UNIT * math.sqrt(sum(float(part.double().square().sum()) for part in parts))


def noised(total: HeadSums, deviation: float) -> HeadSums:
    """Return the sum over clients with noise in every entry, in the units of ``private_sums``, float64.

    Args:
        total: Of the contributions.
        deviation: σC.
    """
    n, features, moments = (
        part.double() + gaussian(tuple(part.shape), deviation / UNIT)
        for part in (total.counts, total.features, total.moments)
    )
    return HeadSums(n, features, moments, torch.zeros_like(total.cells))


class Centred(Family):
    """Heads less their mean over classes, which is the same to the softmax, and smaller where weights are large."""

    def at(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return W (C, d) and b (C,), each with mean 0 over classes; see ``Family``."""
        W, b = super().at(shrinkage)
        return W - W.mean(dim=0), b - b.mean()


def head_of(
    noisy: HeadSums,
    deviation: float,
    own: Tensor,
    labels: Tensor,
    solver: Solver | None = None,
    priors: Priors = "balanced",
    shrinkages: Sequence[float] = SHRINKAGES,
) -> tuple[HeadSums, Head]:
    """Return the head of a released sum and of the server's own samples, and the sums that it is solved from.

    Args:
        noisy: The released sum.
        deviation: σC.
        own: Features of the server's own samples, validation data first, shape (m, d).
        labels: Of the validation data, by which shrinkage and temperature are chosen, shape (≤ m,).
        solver: With second moments in the release; None without, and then the samples are labelled softly.
        priors: See ``fedhello.model.head.family``.
        shrinkages: To choose from.
    """
    h = own[: len(labels)]

    def lost(found: Head) -> float:
        # Noise where features hardly vary makes weights so large that they cancel out beyond the model's precision.
        return max(float(cross_entropy(x @ found.weight.T + found.bias, labels)) for x in (h, _rounded(h)))

    def head(sums: HeadSums) -> Head:
        heads = Centred(**vars(family(sums, WHOLE, solver or "lda", priors)))
        return min((solved_head(heads, h, labels, [shrinkage]) for shrinkage in shrinkages), key=lost)

    sums = repaired(noisy, deviation, own, moments=solver is not None)
    found = head(sums)
    for _ in range(ROUNDS if solver is None and len(own) > 1 else 0):
        soft = (own @ found.weight.T + found.bias).double().softmax(dim=1)
        sums = self_trained(noisy, deviation, own, soft)
        found = head(sums)
    return sums, found


def _rounded(h: Tensor) -> Tensor:
    """Return features that are off by as much as those of another batch or machine may be, relatively 1e-5."""
    signs = 1 - 2 * (torch.arange(h.shape[1]) % 2)
    return h * (1 + 1e-5 * signs)


def repaired(noisy: HeadSums, deviation: float, public: Tensor, moments: bool) -> HeadSums:
    """Return what a head is solved from, with second moments of the kind ``WHOLE``, float64.

    Args:
        noisy: The released sum.
        deviation: σC.
        public: Features of the server's own samples, shape (m, d); of fewer than two, means are not shrunk.
        moments: Whether second moments were released.
    """
    n = (noisy.counts.double() * UNIT / COUNT_WEIGHT).clamp_min(FEWEST)
    d = noisy.features.shape[1]
    raw = noisy.features.double() * UNIT / n.unsqueeze(1)
    mu = _shrunk(raw, (deviation / n) ** 2, public.double() / math.sqrt(d))
    within = torch.eye(d, dtype=torch.float64)
    if moments:
        G = unpacked(_weighed(noisy.moments.double() * UNIT, d, back=True), d)
        values, vectors = torch.linalg.eigh((G - (raw * n.unsqueeze(1)).T @ raw) / n.sum())
        within = (vectors * values.clamp_min(0)) @ vectors.T
    return _as_sums(n, mu, within, noisy.cells)


def self_trained(noisy: HeadSums, deviation: float, public: Tensor, soft: Tensor) -> HeadSums:
    """Return what a head is solved from, given soft labels of the server's own samples; without second moments.

    Args:
        noisy: The released sum.
        deviation: σC.
        public: Features of the server's own samples, shape (m, d).
        soft: z, shape (m, C), rows summing to 1.
    """
    n = (noisy.counts.double() * UNIT / COUNT_WEIGHT).clamp_min(FEWEST)
    raw, v = noisy.features.double() * UNIT / n.unsqueeze(1), (deviation / n) ** 2
    x, z = public.double() / math.sqrt(public.shape[1]), soft.double()
    N = z.sum(dim=0).clamp_min(1e-12)
    m = z.T @ x / N.unsqueeze(1)
    s2 = float(_within(x, z, m).trace()) / x.shape[1]
    p, w = 1 / (v + s2 / n), SOFT * N / s2
    mu = (p.unsqueeze(1) * raw + w.unsqueeze(1) * m) / (p + w).unsqueeze(1)
    mu = _shrunk(mu, v * (p / (p + w)) ** 2, x)
    return _as_sums(n, mu, _within(x, z, mu), noisy.cells)


def _within(x: Tensor, z: Tensor, mu: Tensor) -> Tensor:
    """Return 1/m Σ_ic z_ic (x_i − μ_c)(x_i − μ_c)ᵀ, shape (d, d)."""
    # Σ_c z_ic = 1, so that the squares of x need no weights.
    cross = (z @ mu).T @ x
    whole: Tensor = (x.T @ x - cross - cross.T + (mu * z.sum(dim=0).unsqueeze(1)).T @ mu) / len(x)
    return whole


def _as_sums(n: Tensor, mu: Tensor, within: Tensor, cells: Tensor) -> HeadSums:
    """Return sums with these counts, class means and covariance within classes."""
    G = n.sum() * within + (mu * n.unsqueeze(1)).T @ mu
    return HeadSums(n, mu * n.unsqueeze(1) / UNIT, packed(G) / UNIT**2, torch.ones_like(cells))


def _shrunk(mu: Tensor, variances: Tensor, x: Tensor) -> Tensor:
    """Return the expected class means given the noisy ones, with a prior from public features.

    Args:
        mu: Noisy means, shape (C, d).
        variances: v, of the noise in a coordinate of each, shape (C,).
        x: Public features, shape (m, d).
    """
    if len(x) < 2:
        return mu
    m = x.mean(dim=0)
    values, vectors = torch.linalg.eigh((x - m).T @ (x - m) / (len(x) - 1))
    values = values.clamp_min(0)
    spread = (mu - m).square().sum(dim=1) - len(m) * variances
    between = min(max(float(spread.mean() / values.sum().clamp_min(1e-12)), BETWEEN[0]), BETWEEN[1])
    prior = between * values
    # Without noise nothing is shrunk, also not where no public feature varies.
    weights = torch.where(variances.unsqueeze(1) > 0, prior / (prior + variances.unsqueeze(1)).clamp_min(1e-300), 1.0)
    shrunk: Tensor = m + (((mu - m) @ vectors) * weights) @ vectors.T
    return shrunk
