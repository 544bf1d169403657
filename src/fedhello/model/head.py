"""The classification head: its initial values, whether it trains, and whether the clients share it.

    solved       solved in closed form from the clients' head statistics (default)
    prototypes   starts at class means of the clients' features, then trains and is averaged
    aggregate    starts random, then trains and is averaged
    local        starts random; each client trains and keeps its own
    frozen       random and never trained, as in the published results of Fed-HeLLo
    none         no head: a language model

With n, S and G summed over the clients (``fedhello.model.statistics``), N = Σ_c n_c and μ_c = S_c/n_c, the covariance
within classes is

    Σ = (G − Σ_c n_c μ_c μ_cᵀ) / N                                                           moments: full
    Σ = (Σ_k Σ_c n_{k,c} μ_{k,c} μ_{k,c}ᵀ − Σ_c n_c μ_c μ_cᵀ) / Σ_c (K_c − 1)                moments: means

(for a sketch, PᵀΣ'P + σ²(I − PᵀP) with Σ' of the projected features and σ² from the rest of the trace). With shrinkage
a, Σ_a = (1 − a) Σ + a (tr Σ/d) I and the logits of x are

    lda      w_c = Σ_a⁻¹ μ_c,    b_c = −½ μ_cᵀ w_c + log π_c              the posterior of Gaussians of one covariance
    ridge    [w_c; b_c] = ((1 − a) R + a (tr R/(d + 1)) I)⁻¹ π_c μ̃_c                    least squares to one-hot targets
             with μ̃_c = [μ_c; 1] and R = Σ_c π_c μ̃_c μ̃_cᵀ + Σ (with counted priors (1/N) Σ x̃ x̃ᵀ of x̃ = [x; 1])

both multiplied by a temperature t. Priors π are equal (``balanced``) or proportional to the classes' samples
(``counted``). t, and a shrinkage of ``auto``, minimise −log p on the server's validation data.

Sources: Fed3R (arXiv 2406.01116) and AFL (arXiv 2405.16240) for ridge from sums, GH-OFL (arXiv 2602.01186) for linear
discriminants, FedCOF (arXiv 2412.14326) for covariances from class means, FedNCM (arXiv 2303.15361) for prototypes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.errors import DataError
from fedhello.model.statistics import UNIT, HeadSums, Moments, packed, unpacked

HeadPolicy = Literal["solved", "prototypes", "aggregate", "local", "frozen", "none"]
Solver = Literal["lda", "ridge"]
Priors = Literal["balanced", "counted"]

SHRINKAGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 0.6, 0.9)
"""Values of the shrinkage a that ``auto`` chooses from."""

HOTTEST, COLDEST = 1e-3, 1e4
"""Bounds of the temperature t."""


def is_shared(policy: HeadPolicy) -> bool:
    """Whether the clients share one head, which is sent with the adapter."""
    return policy in ("solved", "prototypes", "aggregate")


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a run's head; see ``model`` in docs/reference/configuration.md.

    Attributes:
        policy: The head policy; see the module.
        trains: Whether a solved head also trains.
        solver: How it is solved: ``lda`` or ``ridge``.
        priors: Whether classes have equal priors or priors by their samples.
        shrinkages: The values of shrinkage to choose from on validation data.
        scale: s of a head of prototypes.
        refresh: Number of rounds between two solutions of the head; None to solve it only at the start.
        forgetting: The share by which earlier sums are reduced at every refresh, 0 … 1.
        final: Whether the head is solved once more after the last round.
    """

    policy: HeadPolicy = "solved"
    trains: bool = False
    solver: Solver = "lda"
    priors: Priors = "balanced"
    shrinkages: tuple[float, ...] = SHRINKAGES
    scale: float = 10.0
    refresh: int | None = None
    forgetting: float = 0.5
    final: bool = True

    @property
    def is_personal(self) -> bool:
        """Whether each client keeps its own head."""
        return self.policy == "local"


@dataclass(frozen=True)
class Head:
    """Weight (C, d) and bias (C,) of the logits layer on the features h; float32.

    Attributes:
        weight: W.
        bias: b.
        shrinkage: a of a solved head; else None.
        temperature: t of a solved head; else None.
        loss: Mean −log p on the data that a and t are chosen on, of a solved head; else None.
    """

    weight: Float32[Tensor, "C d"]
    bias: Float32[Tensor, " C"]
    shrinkage: float | None = None
    temperature: float | None = None
    loss: float | None = None


def check_classes(sums: HeadSums) -> None:
    """Check that every class occurs.

    Raises:
        DataError: If a class has no sample on any client.
    """
    absent = (sums.counts <= 0).nonzero().flatten().tolist()
    if absent:
        raise DataError(f"expected every class to have a training sample on some client; classes {absent} have none")


def class_means(sums: HeadSums) -> Float64[Tensor, "C d"]:
    """Return μ, float64, shape (C, d), of x = h/√d."""
    return sums.features.double() * UNIT / sums.counts.double().unsqueeze(1)


def prototype_head(sums: HeadSums, scale: float) -> Head:
    """Return the head whose logits are those of centred features against unit prototypes (FedNCM).

        m = mean_c μ_c,    w_c = s (μ_c − m)/‖μ_c − m‖,    b_c = −w_c·m          on h = √d x

    Args:
        sums: Over all clients.
        scale: s > 0; larger values make the first predictions more confident.

    Raises:
        DataError: If a class has no sample on any client.
    """
    check_classes(sums)
    mu = class_means(sums)
    centred = mu - mu.mean(dim=0)
    w = scale * centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    b = -(w @ mu.mean(dim=0)) * math.sqrt(mu.shape[1])
    return Head(w.float(), b.float())


def within_covariance(sums: HeadSums, moments: Moments) -> Float64[Tensor, "d d"]:
    """Return Σ, the covariance within classes of x; float64, shape (d, d)."""
    n, mu = sums.counts.double(), class_means(sums)
    N, d = n.sum(), mu.shape[1]
    unit = UNIT**2
    weighted = mu * n.sqrt().unsqueeze(1)
    match moments.kind:
        case "full":
            return (unpacked(sums.moments, d) * unit - weighted.T @ weighted) / N
        case "diagonal":
            return torch.diag((sums.moments.double() * unit - weighted.square().sum(dim=0)) / N)
        case "means":
            spare = (sums.cells.double() - 1).clamp_min(0).sum().clamp_min(1)
            return (unpacked(sums.moments, d) * unit - weighted.T @ weighted) / spare
        case "sketch":
            P, m = moments.projection(d), moments.size
            projected = weighted @ P.T
            inside = (unpacked(sums.moments[:-1], m) * unit - projected.T @ projected) / N
            trace = (sums.moments[-1].double() * unit - weighted.square().sum()) / N
            rest = (trace - inside.trace()).clamp_min(0) / max(1, d - m)
            return P.T @ inside @ P + rest * (torch.eye(d, dtype=torch.float64) - P.T @ P)


def moments_of(sums: HeadSums, within: Float64[Tensor, "d d"], moments: Moments) -> Float64[Tensor, " _"]:
    """Return the second moments for a given covariance within classes: the inverse of ``within_covariance``.

    Args:
        sums: Sums with counts, features and cells; their second moments are not read.
        within: Σ, float64, shape (d, d).
        moments: The kind of second moments to return.
    """
    n, mu = sums.counts.double(), class_means(sums)
    N, weighted = n.sum(), mu * n.sqrt().unsqueeze(1)
    match moments.kind:
        case "full":
            G = packed(N * within + weighted.T @ weighted)
        case "diagonal":
            G = N * within.diagonal() + weighted.square().sum(dim=0)
        case "means":
            spare = (sums.cells.double() - 1).clamp_min(0).sum().clamp_min(1)
            G = packed(spare * within + weighted.T @ weighted)
        case "sketch":
            P = moments.projection(mu.shape[1])
            projected = weighted @ P.T
            inside = packed(N * P @ within @ P.T + projected.T @ projected)
            G = torch.cat([inside, (N * within.trace() + weighted.square().sum()).reshape(1)])
    return G / UNIT**2


@dataclass(frozen=True)
class Family:
    """The heads for all shrinkages, from one eigendecomposition.

    Attributes:
        values: Eigenvalues λ of Σ (lda) or R (ridge), shape (m,).
        vectors: Their eigenvectors Q, shape (m, m).
        targets: M, shape (m, C): the class means, or [N_c μ_c; N_c].
        log_priors: log π, shape (C,).
        solver: ``lda`` or ``ridge``.
    """

    values: Float64[Tensor, " m"]
    vectors: Float64[Tensor, "m m"]
    targets: Float64[Tensor, "m C"]
    log_priors: Float64[Tensor, " C"]
    solver: Solver

    def at(self, shrinkage: float) -> tuple[Float64[Tensor, "C d"], Float64[Tensor, " C"]]:
        """Return W (C, d) and b (C,) on x for a shrinkage a > 0, before the temperature; float64."""
        shrunk = (1 - shrinkage) * self.values.clamp_min(0) + shrinkage * self.values.clamp_min(0).mean()
        solved = self.vectors @ ((self.vectors.T @ self.targets) / shrunk.unsqueeze(1))
        if self.solver == "ridge":
            return solved[:-1].T, solved[-1]
        return solved.T, self.log_priors - 0.5 * (self.targets * solved).sum(dim=0)


def family(sums: HeadSums, moments: Moments, solver: Solver, priors: Priors = "balanced") -> Family:
    """Return the family of heads that are solved from sums, one head per shrinkage.

    Args:
        sums: Over all clients.
        moments: The kind of second moments in the sums.
        solver: ``lda`` or ``ridge``.
        priors: ``counted`` weighs classes by their samples, ``balanced`` equally.

    Raises:
        DataError: If a class has no sample on any client.
    """
    check_classes(sums)
    n, mu, within = sums.counts.double(), class_means(sums), within_covariance(sums, moments)
    share = n / n.sum()
    log_priors = share.log() if priors == "counted" else torch.zeros_like(n)
    if solver == "lda":
        values, vectors = torch.linalg.eigh(within)
        return Family(values, vectors, mu.T.contiguous(), log_priors, solver)
    # Per sample: R/N = E[x̃ x̃ᵀ], and likewise the targets; with balanced priors the classes weigh the same in both.
    weights = share if priors == "counted" else torch.full_like(n, 1 / len(n))
    extended = torch.cat([mu, torch.ones(len(mu), 1, dtype=mu.dtype)], dim=1)
    R = extended.T @ (weights.unsqueeze(1) * extended)
    R[:-1, :-1] += within
    values, vectors = torch.linalg.eigh(R)
    return Family(values, vectors, (weights.unsqueeze(1) * extended).T.contiguous(), log_priors, solver)


def solved_head(
    found: Family, h: Float[Tensor, "n d"], y: Int[Tensor, " n"], shrinkages: Sequence[float] = SHRINKAGES
) -> Head:
    """Return the head that minimises −log p on validation data over shrinkages and temperatures.

    Args:
        found: The heads to choose from.
        h: Features of the validation data, shape (n, d).
        y: Labels of the validation data, shape (n,).
        shrinkages: The values to try, at least one; a single value is used as it is.
    """

    def logits(a: float) -> Float64[Tensor, "n C"]:
        return _logits(found.at(a), h)

    return _least(found, logits, y, shrinkages)


def cross_validated_head(
    h: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    folds: Int[Tensor, " n"],
    solve: Callable[[Bool[Tensor, " n"]], Family],
    shrinkages: Sequence[float] = SHRINKAGES,
) -> Head:
    """Return a head solved from samples, with shrinkage and temperature chosen by cross-validation on the same samples.

    Args:
        h: Features, shape (n, d).
        y: Labels, shape (n,).
        folds: The fold of each sample, integers, shape (n,).
        solve: Mask of samples (bool, shape (n,)) → the family of heads solved from them.
        shrinkages: The values to try, at least one.

    Raises:
        DataError: If a class has no sample outside some fold.
    """
    without = {int(f): solve(folds != f) for f in folds.unique()}
    whole = solve(torch.ones_like(folds, dtype=torch.bool))

    def logits(a: float) -> Float64[Tensor, "n C"]:
        z = torch.zeros(len(y), len(whole.log_priors), dtype=torch.float64)
        for f, found in without.items():
            z[folds == f] = _logits(found.at(a), h[folds == f])
        return z

    return _least(whole, logits, y, shrinkages)


def _logits(
    head: tuple[Float64[Tensor, "C d"], Float64[Tensor, " C"]], h: Float[Tensor, "n d"]
) -> Float64[Tensor, "n C"]:
    W, b = head
    return h.double() / math.sqrt(h.shape[1]) @ W.T + b


def _least(
    found: Family,
    logits: Callable[[float], Float64[Tensor, "n C"]],
    y: Int[Tensor, " n"],
    shrinkages: Sequence[float],
) -> Head:
    """Return the head with the smallest −log p over shrinkages."""
    (loss, t), a = min((calibrated(logits(a), y), a) for a in shrinkages)
    W, b = found.at(a)
    return Head((t * W / math.sqrt(W.shape[1])).float().contiguous(), (t * b).float(), a, t, loss)


def calibrated(z: Float64[Tensor, "n C"], y: Int[Tensor, " n"]) -> tuple[float, float]:
    """Return the minimum over t of the mean −log softmax(t z)_y, and the minimising t.

    Targets are smoothed by 1/(n + 2), as in Platt (1999): without it, the mean has no minimum if the logits separate
    all samples.

    Args:
        z: Logits, float64, shape (n, C).
        y: Classes, shape (n,).
    """

    def loss(log_t: float) -> float:
        return float(cross_entropy(z * float(np.exp(log_t)), y, label_smoothing=1 / (len(y) + 2)))

    found = minimize_scalar(loss, bounds=(np.log(HOTTEST), np.log(COLDEST)), method="bounded", options={"xatol": 1e-3})
    return float(found.fun), float(np.exp(found.x))
