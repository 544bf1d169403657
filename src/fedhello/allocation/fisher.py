"""FIM-HLA: draw blocks in proportion to how sensitive the loss is to their LoRA factors (Fed-HeLLo).

    Γ_l = (1/|D|) Σ_{d ∈ D} ‖∇_{θ_l} log p(y_d | x_d)‖²        (computed in fedhello.client.fisher)

The scores are grouped into G clusters; the blocks of the cluster with the g-th smallest centroid weigh g:

    p_l = g(l) / Σ_j g(j),        g ∈ {1, …, G}.

The published code gives its three clusters the weights 1, 2 and 3 as well (in 27ths), but uses the
arbitrary numbers of k-means clusters as their order; here clusters are ordered by their centroids.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated

import numpy as np
from jaxtyping import Float64, Int
from pydantic import Field

from fedhello.allocation.geometric import draw_preference
from fedhello.allocation.planner import fit
from fedhello.randomness import integer_seed
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation

Clusters = Annotated[int, Field(ge=1)]


def rank_by_cluster(scores: Sequence[float], clusters: int, seed: int) -> Int[np.ndarray, " L"]:
    """Group scores by seeded 1-D k-means and return each score's rank among the cluster centroids.

    Args:
        scores: Γ, length L, finite and ≥ 0.
        clusters: G ≥ 1; fewer where there are fewer different scores.
        seed: Seed of k-means.

    Returns:
        Integers, shape (L,), within 1 … G; a larger score never has a smaller rank.
    """
    return np.array(_ranks(tuple(scores), clusters, seed))


@cache  # every client of a round asks for the same clusters
def _ranks(scores: tuple[float, ...], clusters: int, seed: int) -> tuple[int, ...]:
    from sklearn.cluster import KMeans

    values = np.asarray(scores, dtype=np.float64)
    spread = np.ptp(values)
    if spread == 0:
        return (1,) * len(values)
    # Clusters do not depend on the scale, but the stopping rule of k-means works best on numbers around 1.
    scaled = ((values - values.min()) / spread).reshape(-1, 1)
    count = min(clusters, len(np.unique(scaled)))
    kmeans = KMeans(n_clusters=count, n_init=10, random_state=seed).fit(scaled)
    order = np.argsort(np.argsort(kmeans.cluster_centers_[:, 0]))
    return tuple(int(rank) for rank in order[kmeans.labels_] + 1)


def score_probabilities(scores: Sequence[float], clusters: int, seed: int) -> Float64[np.ndarray, " L"]:
    """Return p_l = g(l) / Σ_j g(j) from Fisher scores; float64, shape (L,), sum 1, every entry > 0."""
    ranks = rank_by_cluster(scores, clusters, seed)
    probabilities: Float64[np.ndarray, " L"] = ranks / ranks.sum()
    return probabilities


def fim_hla(context: AllocationContext, *, clusters: Clusters = 3) -> Allocation:
    """FIM-HLA: blocks drawn from the last Fisher scores' p, anew for each client and round.

    Raises:
        ValueError: If no scores were computed yet.
    """
    if context.scores is None:
        raise ValueError("FIM-HLA needs Fisher scores; none were computed before this round")
    seed = integer_seed(context.federation.seed, "clusters")
    p = score_probabilities(context.scores, clusters, seed)
    return fit(context, draw_preference(p, context.rng()))
