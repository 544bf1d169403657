"""Averages of the product B A rather than of its factors: FlexLoRA, raFLoRA, FedEx-LoRA, LoRA-FAIR, HRALoRA.

    ΔW = Σ_k w_k s B_k A_k,        w_k = n_k / Σ n_k over the clients that trained the module

is the mean of the clients' products; it differs from B̄ Ā, the product of the means. The methods differ in how they use
ΔW. All clients share the scale s, so it cancels wherever ΔW is turned into factors again.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor

from fedhello.aggregation.layerwise import add_part
from fedhello.aggregation.lowrank import LowRankSum, split_svd
from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.rows import class_weights
from fedhello.aggregation.sums import SumAggregator
from fedhello.factors import merged_factors, pairs, spread
from fedhello.strategy import AggregationContext, AggregationResult
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Update

Sigma = Literal["B", "both"]

TINY = torch.finfo(torch.float64).tiny


@dataclass
class Products:
    """Σ_k w_k B_k A_k of each module over the clients that trained it, by samples.

    Attributes:
        sums: Module → Σ n_k B_k A_k.
        totals: Module → Σ n_k.
    """

    sums: dict[str, LowRankSum] = field(default_factory=lambda: defaultdict(LowRankSum))
    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, update: Update) -> None:
        """Add an update's products."""
        for module, A, B in factor_pairs(update):
            self.sums[module].add(B, A, update.samples)
            self.totals[module] += update.samples

    def means(self) -> dict[str, LowRankSum]:
        """Return the means, which take the place of the sums."""
        return {module: self.sums.pop(module).scaled(1 / self.totals[module]) for module in list(self.sums)}


def factor_pairs(update: Update) -> Iterator[tuple[str, Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]]:
    """Yield each module that an update trained, with its A and B."""
    for name in sorted(update.tensors):
        if name.endswith(LORA_A):
            module = name.removesuffix(LORA_A)
            yield module, update.tensors[name], update.tensors[module + LORA_B]


def add_head(context: AggregationContext, update: Update, rest: WeightedMean) -> None:
    """Add an update's tensors that are no factors, weighted by samples."""
    for name, value in update.tensors.items():
        if context.adapter.block_of[name] is None:
            rest.add(name, value, class_weights(context, update, name, update.samples))


def average_products(
    context: AggregationContext, updates: Iterable[Update], *, sigma: Sigma = "B"
) -> AggregationResult:
    """FlexLoRA: ΔW by SVD into factors of rank R; a client of rank r_k gets the top r_k triplets (arXiv 2402.11505).

    ``sigma`` puts the singular values into B (as the paper) or their square root into both.
    """
    rest, products = WeightedMean(), Products()
    for update in updates:
        products.add(update)
        add_head(context, update, rest)
    return context.then(rest.result(context.adapter.tensors) | _factored(context, products.means(), sigma))


def _factored(
    context: AggregationContext, products: dict[str, LowRankSum], sigma: Sigma
) -> dict[str, Float[Tensor, "_ _"]]:
    tensors = {}
    for module, total in products.items():
        B, A = split_svd(total, context.federation.rank, sigma)
        tensors[module + LORA_A] = A.to(context.adapter.tensors[module + LORA_A].dtype)
        tensors[module + LORA_B] = B.to(context.adapter.tensors[module + LORA_B].dtype)
    return tensors


def average_partitions(
    context: AggregationContext, updates: Iterable[Update], *, sigma: Sigma = "both"
) -> AggregationResult:
    """raFLoRA: each partition of the ranks is averaged over the clients that hold it, then SVD (arXiv 2602.13486).

    With h_1 < … < h_m the ranks of all tiers (not of this round's clients) and partition j = (h_{j−1}, h_j],

        ΔW = Σ_j Σ_{k: r_k ≥ h_j} (n_k / N_j) B_k[:, j] A_k[j, :],        N_j = Σ_{k: r_k ≥ h_j} n_k.

    A partition that nobody holds in this round keeps its part of the global adapter; the paper does not say. As N_j is
    known only once all have answered, each partition has a sum of its own until then.
    """
    rest = WeightedMean()
    partitions = rank_partitions(context)
    sums: dict[tuple[str, int], LowRankSum] = defaultdict(LowRankSum)
    totals: dict[tuple[str, int], float] = defaultdict(float)
    for update in updates:
        for module, A, B in factor_pairs(update):
            for low, high in (one for one in partitions if A.shape[0] >= one[1]):
                sums[module, low].add(B[:, low:high], A[low:high], update.samples)
                totals[module, low] += update.samples
        add_head(context, update, rest)
    trained = {module for module, _ in sums}
    products = {}
    for module, _, A, B in pairs(context.adapter):
        if module in trained:
            products[module] = LowRankSum()
            for low, high in partitions:
                if (module, low) in sums:
                    products[module].include(sums.pop((module, low)).scaled(1 / totals[module, low]))
                else:
                    products[module].add(B[:, low:high], A[low:high])
    return context.then(rest.result(context.adapter.tensors) | _factored(context, products, sigma))


def rank_partitions(context: AggregationContext) -> list[tuple[int, int]]:
    """Return the partitions of the components 0 … R−1, each from its first to before its last.

    The edges are the ranks of all tiers, and of this round's clients where tiers state bytes.
    """
    ranks = {context.federation.tiers[tier].rank for tier in context.federation.one_of}
    ranks |= {r for allocation in context.allocations.values() for r in allocation.ranks}
    edges = sorted({0, context.federation.rank, *(r for r in ranks if r is not None)})
    return list(pairwise(edges))


def means_of_both(context: AggregationContext, updates: Iterable[Update]) -> tuple[WeightedMean, dict[str, LowRankSum]]:
    """Return the means of the tensors by themselves, Ā and B̄ among them, and Σ_k w_k B_k A_k of each module."""
    mean, products = WeightedMean(), Products()
    for update in updates:
        for name, value in update.tensors.items():
            add_part(mean, context, update, name, value, update.samples)
        products.add(update)
    return mean, products.means()


def average_with_residual(context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
    """FedEx-LoRA: factors are averaged, and what their product misses is merged into W₀ (arXiv 2410.09432).

        W₀ ← W₀ + s (Σ_k w_k B_k A_k − B̄ Ā)

    The residual travels as factors, or as one matrix. Weights are by samples; the paper's are equal.
    """
    mean, products = means_of_both(context, updates)
    tensors = mean.result(context.adapter.tensors)
    for module, residual in products.items():
        residual.add(tensors[module + LORA_B], tensors[module + LORA_A], -1.0)
        tensors |= merged(context, module, residual.scaled(context.federation.scale))
    return context.then(tensors)


def merged(context: AggregationContext, module: str, more: LowRankSum) -> dict[str, Float[Tensor, "_ _"]]:
    """Return a module's merged product with more added to it: as factors, or as one matrix where that is no larger.

    Factors of rank m hold (d_out + d_in) m numbers, the matrix d_out d_in.
    """
    before, dtype = context.adapter.tensors, context.adapter.tensors[module + LORA_A].dtype
    if module + MERGED in before:
        return {module + MERGED: (before[module + MERGED] + more.dense()).to(dtype)}
    total = more.scaled(1.0)
    total.add(*merged_factors(context.adapter, module))
    if total.whole is not None:
        return {module + MERGED: total.whole.to(dtype)}
    Q, P = total.factors()
    return {module + MERGED_A: P.to(dtype).contiguous(), module + MERGED_B: Q.to(dtype).contiguous()}


def average_corrected(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    similarity: Literal["cosine", "least-squares"] = "cosine",
    penalty: Annotated[float, Field(gt=0)] = 0.01,
) -> AggregationResult:
    """LoRA-FAIR: B̄ is corrected on the server so that its product with Ā comes close to ΔW (arXiv 2411.14961).

        cosine           ΔB = argmin 1 − cos(ΔW, (B̄ + ΔB) Ā) + λ ‖ΔB‖²
        least-squares    ΔB = argmin ‖ΔW − (B̄ + ΔB) Ā‖² + λ ‖ΔB‖² = (ΔW − B̄ Ā) Āᵀ (Ā Āᵀ + λ I)⁻¹

    ΔW Āᵀ, Ā Āᵀ and ‖ΔW‖ are all that is needed of ΔW. The text leaves open whether the similarity is maximised; here
    it is. Ā, B̄ and ΔB have the components that some client of the round holds; the others stay as they were, since no
    client would start from a correction of them.
    """
    mean, products = means_of_both(context, updates)
    tensors = mean.result(context.adapter.tensors)
    correct = corrected_by_cosine if similarity == "cosine" else corrected_by_least_squares
    for module, product in products.items():
        A, B = tensors[module + LORA_A], tensors[module + LORA_B]
        held = mean.added(module + LORA_B, B)[0]
        B[:, held] = (B[:, held].double() + correct(product, A[held], B[:, held], penalty)).to(B.dtype)
    return context.then(tensors)


def corrected_by_least_squares(
    product: LowRankSum, A: Float[Tensor, "r d_in"], B: Float[Tensor, "d_out r"], penalty: float
) -> Float64[Tensor, "d_out r"]:
    """Return ΔB = (ΔW − B A) Aᵀ (A Aᵀ + λ I)⁻¹, shape (d_out, r), float64."""
    U, V = product.factors()
    A, B = A.double(), B.double()
    gram = A @ A.T
    right = U @ (V @ A.T) - B @ gram
    delta: Tensor = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), right, left=False)
    return delta


def corrected_by_cosine(
    product: LowRankSum, A: Float[Tensor, "r d_in"], B: Float[Tensor, "d_out r"], penalty: float
) -> Float64[Tensor, "d_out r"]:
    """Return the ΔB that maximises cos(ΔW, (B + ΔB) A) − λ ‖ΔB‖², shape (d_out, r), float64."""
    U, V = product.factors()
    A, B = A.double(), B.double()
    M, gram, length = U @ (V @ A.T), A @ A.T, product.norm()
    # The cosine of a product of zero has no gradient; a little of the way to ΔW has.
    start = torch.zeros_like(B) if float(((B @ gram) * B).sum()) > 0 else 1e-3 * M / M.norm().clamp_min(TINY)
    delta = start.requires_grad_()
    optimizer = torch.optim.LBFGS([delta], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Float64[Tensor, ""]:
        optimizer.zero_grad()
        corrected = B + delta
        norm = ((corrected @ gram) * corrected).sum().clamp_min(TINY).sqrt()
        loss = 1 - (corrected * M).sum() / (norm * length) + penalty * delta.square().sum()
        torch.autograd.backward(loss)
        return loss

    if length > 0:
        optimizer.step(closure)
    return delta.detach()


def add_masked(context: AggregationContext, update: Update, sums: WeightedMean) -> None:
    """HRALoRA: add the factor that was trained; a component that the client does not hold counts as the global one.

    Its gradient is masked; so each component's mean runs over all clients that trained the block.
    """
    for name, value in update.tensors.items():
        like = context.adapter.tensors[name]
        components = context.components(update, name)
        if value.shape != like.shape:
            own = spread(name, torch.ones_like(value), like, components).bool()
            value = torch.where(own, spread(name, value, like, components), like)
        sums.add(name, value, class_weights(context, update, name, update.samples))


def rebalance(context: AggregationContext, sums: WeightedMean) -> AggregationResult:
    """HRALoRA: take the mean of the factor that was trained, then balance the product by SVD (CCGrid 2026)."""
    tensors = sums.result(context.adapter.tensors)
    after = context.adapter.with_tensors(tensors)
    for module, _, A, B in pairs(after):
        if module + LORA_A in tensors or module + LORA_B in tensors:
            product = LowRankSum()
            product.add(B, A)
            tensors |= _factored(context, {module: product}, "both")
    return context.then(tensors)


average_rebalanced = SumAggregator(add_masked, rebalance)
"""HRALoRA's mean of factors, balanced by SVD."""
