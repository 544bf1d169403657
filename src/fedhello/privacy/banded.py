"""Banded matrix-factorisation noise: the noise of a round takes back a part of that of the rounds before it.

A model is the sum of its rounds' steps, and the sum of independent noise grows with every round. With a band of b
rounds, and clients that take part in one of b rounds at most (Choquette-Choo et al., arXiv 2306.08153),

    c_0 = 1,    c_j = c_{j−1} (2j − 1) / (2j)            for 0 < j < b, the b first of (1 − x)^{−½}
    z_t = ‖c‖ w_t − Σ_{0<j<b} c_j z_{t−j},               w_t ~ N(0, I)

so that Σ_j c_j z_{t−j} / ‖c‖ = w_t is independent noise. In these terms a client that changes round t by v changes
rounds t … t+b−1 by c_j v / ‖c‖, of length ‖v‖ together, and its next turn begins after them. So b rounds cost what one
release of all clients costs, without any assumption on how clients are sampled, and who else is in a round may be
known. A round that is attempted again, with new w_t, costs one release more.

The coefficients are those of the square root of the matrix of prefix sums, cut off (Kalinin and Lampert,
arXiv 2405.13763). With ‖c‖ = 1 the noise of the mean model is at most 5 % above that of the best banded Toeplitz matrix
of the same width, over 20 and 100 rounds and bands of 2 to 50, as the package ``jax-privacy`` 2.0 finds it by
optimisation; so a dependency of 650 MB is not asked for these few numbers.
"""

import math

import torch
from torch import Tensor


def coefficients(band: int) -> Tensor:
    """Return c, float64, shape (b,).

    Args:
        band: b ≥ 1; 1 is independent noise.

    Example:
        >>> coefficients(4).tolist()
        [1.0, 0.5, 0.375, 0.3125]
    """
    j = torch.arange(1, band, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), ((2 * j - 1) / (2 * j)).cumprod(0)])


def next_noise(w: Tensor, earlier: Tensor) -> Tensor:
    """Return z_t.

    Args:
        w: w_t.
        earlier: z_{t−1}, z_{t−2}, … z_{t−b+1}, stacked; zeros before the first round.
    """
    c = coefficients(len(earlier) + 1)
    z: Tensor = c.norm() * w - torch.tensordot(c[1:], earlier, dims=1)
    return z


def remembered(z: Tensor, earlier: Tensor) -> Tensor:
    """Return z_t, z_{t−1}, … z_{t−b+2}, stacked, for the round after it.

    Args:
        z: z_t.
        earlier: As in ``next_noise``.
    """
    return torch.cat([z.unsqueeze(0), earlier])[: len(earlier)]


def summed_noise(band: int, rounds: int) -> float:
    """Return the length of the noise on the sum of all rounds over that of independent noise.

        √(Σ_i s_i² / T),    s_i = Σ_{j ≤ i} ‖c‖ a_j,    a the coefficients of 1 / Σ_j c_j x^j

    Args:
        band: b.
        rounds: T ≥ 1.

    Example:
        >>> round(summed_noise(4, 20), 3), summed_noise(1, 20)
        (0.606, 1.0)
    """
    c = coefficients(band)
    a = torch.zeros(rounds, dtype=torch.float64)
    for i in range(rounds):
        before = a[max(0, i - band + 1) : i].flip(0)
        a[i] = float(i == 0) - float(c[1 : len(before) + 1] @ before)
    return float((c.norm() * a.cumsum(0)).norm()) / math.sqrt(rounds)
