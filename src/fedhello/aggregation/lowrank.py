"""Sums of products B A, added one by one, in the fewest numbers that hold them exactly.

A sum Σ_k w_k B_k A_k is held as one product U V with U = [w_1 B_1 … w_K B_K] and V = [A_1; …; A_K], of inner dimension
m: m (d_out + d_in) numbers, and no d_out × d_in matrix is formed. Once that would be more numbers than the matrix has,
the sum is the matrix, and each product is added to it as it comes. So a sum never holds more than one matrix, however
many products are added. Products of many clients span all directions, so nothing smaller is exact. The singular value
decomposition of factors comes from the small core:

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
        whole: The matrix, once it takes the place of both.
    """

    left: list[Float64[Tensor, "d_out _"]] = field(default_factory=list)
    right: list[Float64[Tensor, "_ d_in"]] = field(default_factory=list)
    whole: Float64[Tensor, "d_out d_in"] | None = None

    def add(self, B: Float[Tensor, "d_out r"], A: Float[Tensor, "r d_in"], weight: float = 1.0) -> None:
        """Add weight · B A, with B of shape (d_out, r) and A of shape (r, d_in)."""
        B, A = B.double() * weight, A.double()
        (d_out, r), d_in = B.shape, A.shape[1]
        if self.whole is not None or (self.inner + r) * (d_out + d_in) > d_out * d_in:
            self._as_matrix(d_out, d_in).addmm_(B, A)
        else:
            self.left.append(B)
            self.right.append(A)

    def include(self, other: "LowRankSum") -> None:
        """Add another sum to this one."""
        for B, A in zip(other.left, other.right, strict=True):
            self.add(B, A)
        if other.whole is not None:
            self._as_matrix(*other.whole.shape).add_(other.whole)

    def _as_matrix(self, d_out: int, d_in: int) -> Float64[Tensor, "{d_out} {d_in}"]:
        """Let the matrix take the place of the factors, and return it."""
        if self.whole is None:
            self.whole = torch.zeros(d_out, d_in, dtype=torch.float64)
            while self.right:
                self.whole.addmm_(self.left.pop(0), self.right.pop(0))
        return self.whole

    @property
    def inner(self) -> int:
        """m, the inner dimension of the factors; 0 once the sum is a matrix."""
        return sum(part.shape[0] for part in self.right)

    def scaled(self, by: float) -> "LowRankSum":
        """Return the sum times a number."""
        whole = None if self.whole is None else self.whole * by
        return LowRankSum([part * by for part in self.left], list(self.right), whole)

    def dense(self) -> Float64[Tensor, "d_out d_in"]:
        """Return the sum as a matrix."""
        return torch.cat(self.left, dim=1) @ torch.cat(self.right) if self.whole is None else self.whole

    def factors(self) -> tuple[Float64[Tensor, "d_out m"], Float64[Tensor, "m d_in"]]:
        """Return U of shape (d_out, m) and V of shape (m, d_in), with U V the sum and m ≤ min(d_out, d_in).

        A sum that is a matrix is itself times the identity.
        """
        if self.whole is None:
            return torch.cat(self.left, dim=1), torch.cat(self.right)
        one = torch.eye(min(self.whole.shape), dtype=self.whole.dtype)
        return (one, self.whole) if len(one) == len(self.whole) else (self.whole, one)

    def svd(self) -> tuple[Float64[Tensor, "d_out m"], Float64[Tensor, " m"], Float64[Tensor, "m d_in"]]:
        """Return P (d_out, m), σ (m,) descending and Q (m, d_in), with P diag(σ) Q the sum."""
        if self.whole is not None:
            P, sigma, Q = torch.linalg.svd(self.whole, full_matrices=False)
            return P, sigma, Q
        U, V = self.factors()
        Q1, R1 = torch.linalg.qr(U)
        Q2, R2 = torch.linalg.qr(V.T)
        P, sigma, Q = torch.linalg.svd(R1 @ R2.T, full_matrices=False)
        return Q1 @ P, sigma, Q @ Q2.T

    def norm(self) -> float:
        """Return the Frobenius norm of the sum."""
        if self.whole is not None:
            return float(self.whole.norm())
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
