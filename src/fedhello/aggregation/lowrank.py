"""Sums of products B A, held as factors; no d_out × d_in matrix is formed.

A sum Σ_k w_k B_k A_k is held as one product U V with U = [w_1 B_1 … w_K B_K] and V = [A_1; …; A_K]. Its rank is at most
min(d_out, d_in), so when the inner dimension m grows beyond that, a QR decomposition brings it back without loss:

    Vᵀ = Q R   ⇒   U V = (U Rᵀ) Qᵀ,        inner dimension min(m, d_in)

and likewise from the left. The memory is therefore bounded, however many products are added. The singular value
decomposition comes from the small core:

    U = Q₁ R₁,  Vᵀ = Q₂ R₂   ⇒   U V = Q₁ (R₁ R₂ᵀ) Q₂ᵀ,   and R₁ R₂ᵀ is min(m, d_out) × min(m, d_in).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

SAME = 1e-12
"""Singular values below this share of the largest count as 0."""


@dataclass
class LowRankSum:
    """A running Σ w B A, float64.

    Attributes:
        left: Parts of U, each of shape (d_out, ·).
        right: Parts of V, each of shape (·, d_in).
    """

    left: list[Float64[Tensor, "d_out _"]] = field(default_factory=list)
    right: list[Float64[Tensor, "_ d_in"]] = field(default_factory=list)

    def add(self, B: Float[Tensor, "d_out r"], A: Float[Tensor, "r d_in"], weight: float = 1.0) -> None:
        """Add weight · B A, with B of shape (d_out, r) and A of shape (r, d_in)."""
        self.left.append(B.double() * weight)
        self.right.append(A.double())
        # Twice the largest rank there can be, so that the cost of a decomposition spreads over many products.
        if self.inner > 2 * min(B.shape[0], A.shape[1]):
            U, V = self.factors()
            self.left, self.right = [U], [V]

    @property
    def inner(self) -> int:
        """m, the inner dimension."""
        return sum(part.shape[0] for part in self.right)

    def scaled(self, by: float) -> "LowRankSum":
        """Return the sum times a number."""
        return LowRankSum([part * by for part in self.left], list(self.right))

    def factors(self) -> tuple[Float64[Tensor, "d_out m"], Float64[Tensor, "m d_in"]]:
        """Return U of shape (d_out, m) and V of shape (m, d_in), with U V the sum and m ≤ min(d_out, d_in)."""
        U, V = torch.cat(self.left, dim=1), torch.cat(self.right)
        if V.shape[0] <= min(U.shape[0], V.shape[1]):
            return U, V
        if V.shape[1] <= U.shape[0]:
            Q, R = torch.linalg.qr(V.T)
            return U @ R.T, Q.T
        Q, R = torch.linalg.qr(U)
        return Q, R @ V

    def svd(self) -> tuple[Float64[Tensor, "d_out m"], Float64[Tensor, " m"], Float64[Tensor, "m d_in"]]:
        """Return P (d_out, m), σ (m,) descending and Q (m, d_in), with P diag(σ) Q the sum."""
        U, V = self.factors()
        Q1, R1 = torch.linalg.qr(U)
        Q2, R2 = torch.linalg.qr(V.T)
        P, sigma, Q = torch.linalg.svd(R1 @ R2.T, full_matrices=False)
        return Q1 @ P, sigma, Q @ Q2.T

    def norm(self) -> float:
        """Return the Frobenius norm of the sum."""
        U, V = self.factors()
        return float(((U.T @ U) * (V @ V.T)).sum().clamp_min(0).sqrt())


def split_svd(
    total: LowRankSum, rank: int, sigma: str
) -> tuple[Float64[Tensor, "d_out {rank}"], Float64[Tensor, "{rank} d_in"]]:
    """Return factors B (d_out, rank) and A (rank, d_in) of the best approximation of a sum, by truncated SVD.

    Args:
        total: The sum.
        rank: Components to return. Where the sum has fewer, B is 0 there and A orthonormal to the others, as in a full
            SVD: were both 0, no gradient would ever reach them.
        sigma: Where the singular values go: all into ``B``, or the square root into ``both``.
    """
    P, values, Q = total.svd()
    # The sign of a singular pair is arbitrary; fixing it makes the factors a function of the product.
    largest = P.gather(0, P.abs().argmax(dim=0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(P.dtype)
    P, Q = P * sign, Q * sign.T
    kept = min(rank, int((values > SAME * values.max()).sum())) if len(values) else 0
    root = values[:kept].sqrt()
    into_B, into_A = (values[:kept], torch.ones_like(root)) if sigma == "B" else (root, root)
    B = P.new_zeros(P.shape[0], rank)
    A = Q.new_zeros(rank, Q.shape[1])
    B[:, :kept], A[:kept] = P[:, :kept] * into_B, Q[:kept] * into_A.unsqueeze(1)
    A[kept:] = _orthonormal_rest(Q[:kept], rank - kept)
    return B, A


def _orthonormal_rest(rows: Float64[Tensor, "m d_in"], count: int) -> Float64[Tensor, "{count} d_in"]:
    """Return ``count`` more rows orthonormal to the given ones, from a fixed seed; zeros beyond d_in − m."""
    possible = min(count, rows.shape[1] - rows.shape[0])
    anything = torch.randn(rows.shape[1], possible, dtype=rows.dtype, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(torch.cat([rows.T, anything], dim=1))[0].T[len(rows) :]
    return torch.cat([basis, rows.new_zeros(count - possible, rows.shape[1])])
