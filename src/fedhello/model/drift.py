"""Drift compensation: a solved head follows features that training moves, and no client sends anything for it.

The sums that a head is solved from are of features that were. With x_i and x'_i (``fedhello.model.statistics``) of the
server's own samples i = 1 … n under the adapter that the sums are of and under the one of now, centred X = (x_i − x̄)
and D = (x'_i − x̄') − X, the drift is estimated as an affine map, drawn by ridge λ towards none:

    x' ≈ x̄' + Mᵀ(x − x̄),    M = I + (XᵀX + λI)⁻¹ XᵀD,    E = 1/n Σ_i e_i e_iᵀ

e_i is what of D_i the map of the other n − 1 samples leaves; that is D − X(M − I) over 1 − H_ii − 1/n with
H = X(XᵀX + λI)⁻¹Xᵀ, and λ is the one of the least Σ_i ‖e_i‖². No label enters. Class means and covariance follow by

    μ'_c = x̄' + Mᵀ(μ_c − x̄),    Σ' = MᵀΣM + E

Means that follow the drift of other samples: semantic drift compensation (SDC, Yu et al., CVPR 2020, arXiv 2004.00440);
that a linear map does it better: LDC (Gomez-Villa et al., ECCV 2024, arXiv 2407.08536), both of prototypes in continual
learning. That the covariance follows, the ridge towards no drift and its choice are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedhello.model.head import class_means, moments_of, within_covariance
from fedhello.model.statistics import UNIT, HeadSums, Moments

RIDGES = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""λ that are tried, in units of tr(XᵀX)/d."""

MOST_LEVERAGE = 0.999
"""Bound on a sample's leverage H_ii + 1/n; a sample that alone spans a direction of X fits its own map exactly."""


@dataclass(frozen=True)
class Drift:
    """How features moved; all float64.

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
    """Return the drift of samples' features, by the formulas above.

    Args:
        x: Before, float64, shape (n, d), n ≥ 2.
        x_after: The same samples' after, likewise.
        ridges: λ to choose from, in units of tr(XᵀX)/d; one alone fixes it.
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
    """Return the sums as they would be of the features after a drift.

    Args:
        sums: Over all clients; every class has samples.
        moments: What they hold of the second moments; what is returned holds as much.
        drift: Of the features.
    """
    M = drift.map
    mu = drift.after + (class_means(sums) - drift.before) @ M
    within = M.T @ within_covariance(sums, moments) @ M + drift.rest
    features = mu * sums.counts.double().unsqueeze(1) / UNIT
    moved = replace(sums, features=features)
    return replace(moved, moments=moments_of(moved, within, moments))
