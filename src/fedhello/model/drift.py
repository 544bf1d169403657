"""Drift compensation: adapt a solved head to features that training changes, without messages from clients.

The sums that a head is solved from belong to features under an earlier adapter. Let x_i and x'_i
(``fedhello.model.statistics``) be the features of the server's own samples i = 1 … n under that adapter and under the
current one, X = (x_i − x̄) and D = (x'_i − x̄') − X. The drift is estimated as an affine map with a ridge λ towards no
drift:

    x' ≈ x̄' + Mᵀ(x − x̄),    M = I + (XᵀX + λI)⁻¹ XᵀD,    E = 1/n Σ_i e_i e_iᵀ

e_i is the leave-one-out residual of D_i: row i of D − X(M − I) over 1 − H_ii − 1/n with H = X(XᵀX + λI)⁻¹Xᵀ; λ
minimises Σ_i ‖e_i‖². No label is used. Class means and covariance become

    μ'_c = x̄' + Mᵀ(μ_c − x̄),    Σ' = MᵀΣM + E

Sources: means moved by the drift of other samples are from semantic drift compensation (SDC, Yu et al., CVPR 2020,
arXiv 2004.00440), the linear map from LDC (Gomez-Villa et al., ECCV 2024, arXiv 2407.08536), both for prototypes in
continual learning. The map of the covariance, the ridge towards no drift and its choice are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedhello.model.head import class_means, moments_of, within_covariance
from fedhello.model.statistics import UNIT, HeadSums, Moments

RIDGES = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Values of λ to try, in units of tr(XᵀX)/d."""

MOST_LEVERAGE = 0.999
"""Upper bound on a sample's leverage H_ii + 1/n; it is 1 for a sample that alone spans a direction of X."""


@dataclass(frozen=True)
class Drift:
    """An estimated drift of features; all float64.

    Attributes:
        before: x̄, shape (d,).
        after: x̄', shape (d,).
        map: M, shape (d, d).
        rest: E, shape (d, d).
        ridge: λ, in units of tr(XᵀX)/d.
    """

    before: Tensor
    after: Tensor
    map: Tensor
    rest: Tensor
    ridge: float


def estimated_drift(x: Tensor, x_after: Tensor, ridges: Sequence[float] = RIDGES) -> Drift:
    """Return the estimated drift of samples' features, by the formulas above.

    Args:
        x: Features before the drift, float64, shape (n, d), n ≥ 2.
        x_after: Features of the same samples after it, float64, shape (n, d).
        ridges: Values of λ to choose from, in units of tr(XᵀX)/d; a single value is used as it is.
    """
    n, d = x.shape
    before, after = x.mean(dim=0), x_after.mean(dim=0)
    X = x - before
    D = x_after - after - X
    squares, V = torch.linalg.eigh(X.T @ X)
    XV = X @ V
    projected, unit = XV.T @ D, float(squares.clamp_min(0).mean())

    def rest_at(ridge: float) -> Tensor:
        kept = XV / (squares.clamp_min(0) + ridge * unit)
        leverage = ((kept * XV).sum(dim=1) + 1 / n).clamp_max(MOST_LEVERAGE)
        rest: Tensor = (D - kept @ projected) / (1 - leverage).unsqueeze(1)
        return rest

    if unit == 0:  # all samples are one point
        return Drift(before, after, torch.eye(d, dtype=x.dtype), D.T @ D / n, ridges[0])
    tried = [(ridge, rest_at(ridge)) for ridge in ridges]
    ridge, e = min(tried, key=lambda found: float(found[1].square().sum()))
    M = torch.eye(d, dtype=x.dtype) + V @ (projected / (squares.clamp_min(0) + ridge * unit).unsqueeze(1))
    return Drift(before, after, M, e.T @ e / n, ridge)


def followed(sums: HeadSums, moments: Moments, drift: Drift) -> HeadSums:
    """Return an estimate of the sums for the features after a drift.

    Args:
        sums: Over all clients; every class has samples.
        moments: The kind of second moments in the sums, also of the result.
        drift: The drift of the features.
    """
    M = drift.map
    mu = drift.after + (class_means(sums) - drift.before) @ M
    within = M.T @ within_covariance(sums, moments) @ M + drift.rest
    features = mu * sums.counts.double().unsqueeze(1) / UNIT
    moved = replace(sums, features=features)
    return replace(moved, moments=moments_of(moved, within, moments))
