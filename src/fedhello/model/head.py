"""The classification head: where it starts, and whether the clients share it.

    prototypes   starts at class means of the clients' features, then trains and is averaged (default)
    aggregate    starts random, then trains and is averaged
    local        starts random; each client trains and keeps its own
    frozen       random and never trained: what the published numbers of Fed-HeLLo used
    none         there is none: a language model

Class prototypes (Legate et al. 2023, "Guiding the last layer in federated learning with pre-trained models",
FedNCM). Client k sends, once and for each class c, of the features h that enter the logits layer

    S_{k,c} = Σ h/‖h‖  ∈ R^d,        n_{k,c} = its samples,        N_{k,c} = Σ ‖h‖.

The server adds them up over the clients, S_c, n_c, N_c, and writes the head

    P_c = S_c / n_c,    μ = mean_c P_c,    ρ = Σ_c N_c / Σ_c n_c,
    w_c = s (P_c − μ)/‖P_c − μ‖,           b_c = −ρ w_c·μ,

so the logits are those of h − ρμ: centred features against unit prototypes, times s. The sums do not depend on
how the data is split over the clients, can be summed securely, and cost C·(d+2) numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedhello.errors import DataError, UpdateError

LONGEST_FEATURE = 1e6
"""‖h‖ that no model comes near."""

HeadPolicy = Literal["prototypes", "aggregate", "local", "frozen", "none"]


def is_shared(policy: HeadPolicy) -> bool:
    """Whether the head is part of what clients upload and the server averages."""
    return policy in ("prototypes", "aggregate")


@dataclass(frozen=True)
class ClassSums:
    """What one client, or all together, contribute to the prototypes; float64.

    Attributes:
        features: S, shape (C, d): sums of normalised features.
        counts: n, shape (C,).
        norms: N, shape (C,): sums of the features' norms.
    """

    features: Tensor
    counts: Tensor
    norms: Tensor


def class_sums(features: Tensor, labels: Tensor, classes: int) -> ClassSums:
    """Sum one client's features by class.

    Args:
        features: h, shape (n, d).
        labels: Integers within 0 … C−1, shape (n,).
        classes: C.
    """
    h = features.double()
    norm = h.norm(dim=1)
    sums = ClassSums(
        torch.zeros(classes, h.shape[1]).double(),
        torch.zeros(classes).double(),
        torch.zeros(classes).double(),
    )
    sums.features.index_add_(0, labels, h / norm.clamp_min(1e-12).unsqueeze(1))
    sums.counts.index_add_(0, labels, torch.ones_like(norm))
    sums.norms.index_add_(0, labels, norm)
    return sums


def check_sums(sums: ClassSums, samples: int) -> None:
    """Check that sums can come from as many samples as their client declared, so that no client weighs more than that.

    Args:
        sums: Finite, of one client.
        samples: n_k.

    Raises:
        UpdateError: If they cannot: n_c ≥ 0, Σ_c n_c ≤ n_k, ‖S_c‖ ≤ n_c and 0 ≤ N_c ≤ ``LONGEST_FEATURE`` · n_c.
    """
    S, n, N = sums.features, sums.counts, sums.norms
    if bool((n < 0).any()) or float(n.sum()) > samples:
        raise UpdateError(f"expected class counts of at most {samples} samples; found {n.tolist()}", "wrong count")
    rounding = 1e-6 * n
    if bool((S.norm(dim=1) > n + rounding).any() | (N < 0).any() | (LONGEST_FEATURE * n < N).any()):
        raise UpdateError("expected sums of normalised features and of their norms; found larger ones", "out of bounds")


def add_up(parts: Iterable[ClassSums]) -> ClassSums:
    """Add the contributions of clients, which arrive in ascending client id."""
    first, *rest = parts
    features, counts, norms = first.features.clone(), first.counts.clone(), first.norms.clone()
    for part in rest:
        features += part.features
        counts += part.counts
        norms += part.norms
    return ClassSums(features, counts, norms)


def prototype_head(sums: ClassSums, scale: float) -> tuple[Tensor, Tensor]:
    """Turn summed features into the weight (C, d) and bias (C,) of the logits layer; float32.

    Args:
        sums: Over all clients.
        scale: s > 0, the length of each class's weight vector: how sharp the first predictions are.

    Raises:
        DataError: If a class has no sample on any client.
    """
    absent = (sums.counts == 0).nonzero().flatten().tolist()
    if absent:
        raise DataError(f"expected every class to have a training sample on some client; classes {absent} have none")
    P = sums.features / sums.counts.unsqueeze(1)
    mu = P.mean(dim=0)
    rho = sums.norms.sum() / sums.counts.sum()
    centred = P - mu
    w = scale * centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    b = -rho * (w @ mu)
    return w.float(), b.float()
