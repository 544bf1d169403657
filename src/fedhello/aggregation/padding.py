"""Ranks made equal by padding, then averaged: HeLoRA-Pad, HetLoRA and replication padding.

A client of rank r_k returns A_k (r_k × d_in) and B_k (d_out × r_k). The server fills them up to the rank R of the
global adapter, and averages A and B by themselves:

    A ← Σ_k w_k pad(A_k) / Σ_k w_k,        B ← Σ_k w_k pad(B_k) / Σ_k w_k.

All ranks share one LoRA scale; with α/r_k, as in the published code, equal components would mean different things.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedhello.aggregation.layerwise import add_part
from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.rows import class_weights
from fedhello.aggregation.sums import SumAggregator
from fedhello.factors import RankMin, Shrink, along_components, has_faded, kept_rank
from fedhello.strategy import AggregationContext, AggregationResult
from fedhello.types import LORA_A, LORA_B, Update

Padding = Literal["zero", "mean", "linear", "adjacent", "safe"]
RankWeighting = Literal["samples", "rank", "samples_rank"]


def pad(
    name: str, value: Float[Tensor, "r d_in"] | Float[Tensor, "d_out r"], R: int, padding: Padding
) -> Float[Tensor, "{R} d_in"] | Float[Tensor, "d_out {R}"]:
    """Fill a client's A up to R rows, or its B up to R columns (HeLoRA-Pad).

        zero       zeros
        mean       the mean of all its entries
        linear     the mean of its rows (of A) or columns (of B)
        adjacent   its last row or column
        safe       A like ``linear``, B with zeros, so that B A stays what the client trained

    The four first are the published code's; a copy in both factors adds products that no client trained. From rank 3 to
    8, ‖pad(B) pad(A)‖ of random factors is 3.6 times ‖B A‖ under ``adjacent`` and 1.7 times under ``linear``.

    Args:
        name: Ends as A's or B's.
        value: A_k, shape (r_k, d_in), or B_k, shape (d_out, r_k).
        R: Components to fill up to.
        padding: What with.

    Returns:
        Shape (R, d_in) or (d_out, R).
    """
    along = 0 if name.endswith(LORA_A) else 1
    missing = R - value.shape[along]
    if missing == 0:
        return value
    match padding:
        case "zero":
            one = torch.zeros_like(value.narrow(along, 0, 1))
        case "mean":
            one = value.mean().expand_as(value.narrow(along, 0, 1))
        case "linear":
            one = value.mean(dim=along, keepdim=True)
        case "adjacent":
            one = value.narrow(along, value.shape[along] - 1, 1)
        case "safe":
            return pad(name, value, R, "linear" if along == 0 else "zero")
    return torch.cat([value, *[one] * missing], dim=along)


def add_padded(
    context: AggregationContext,
    update: Update,
    sums: WeightedMean,
    *,
    padding: Padding = "safe",
    weighting: RankWeighting = "samples_rank",
) -> None:
    """HeLoRA-Pad: pad by context, then average with weights that grow with the rank.

    The paper (Fan et al., ACM TOIT 25(2), 2025) names context-based padding and rank-based weights; its formulas were
    not at hand. w_k = n_k, r_k or n_k r_k is ours to choose; the published code has no rank in its weights.
    """
    r = max(len(context.components(update, name)) for name in update.tensors)
    w = {"samples": update.samples, "rank": r, "samples_rank": update.samples * r}[weighting]
    for name, value in update.tensors.items():
        is_factor = name.endswith((LORA_A, LORA_B))
        whole = pad(name, value, context.federation.rank, padding) if is_factor else value
        sums.add(name, whole, class_weights(context, update, name, w))


average_padded = SumAggregator(add_padded, linear=False)
"""HeLoRA-Pad's mean of padded factors."""


def product_norm(A: Float[Tensor, "r d_in"], B: Float[Tensor, "d_out r"]) -> float:
    """Return ‖B A‖_F = √tr((BᵀB)(AAᵀ)) without forming B A; A is r × d_in, B is d_out × r."""
    A, B = A.double(), B.double()
    return float(((B.T @ B) * (A @ A.T)).sum().clamp_min(0).sqrt())


def average_by_norm(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    shrink: Shrink = 0.99,
    rank_min: RankMin = 1,
) -> AggregationResult:
    """HetLoRA: zero padding, weights ‖B_k A_k‖_F, and ranks that shrink where the tail fades (arXiv 2401.06432).

        w_k = √ Σ_modules ‖B_k A_k‖²_F

    over the whole model, since the paper does not say per module. These weights are no counts that a client states, so
    ``defence.max_share`` does not cap them; ``defence.max_norm`` limits how far one update makes them grow. A client
    whose tail product ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F got smaller in training keeps rank max(r_min, ⌊γ r⌋) from now
    on; it has uploaded no more already, and zeros take the place of its tail until it is dropped here, before
    averaging. The head is averaged by samples. Where every product is zero, nothing changes.

    Args:
        context: Its method state holds ``rank/k``, the rank that client k was pruned to.
        updates: The clients' factors.
        shrink: γ.
        rank_min: r_min.
    """
    mean, R, ranks = WeightedMean(), context.federation.rank, {}
    for update in updates:
        modules = sorted(name.removesuffix(LORA_A) for name in update.tensors if name.endswith(LORA_A))
        r = update.tensors[modules[0] + LORA_A].shape[0]
        kept = kept_rank(r, shrink, rank_min)
        if kept < r and has_faded(update.tensors, context.adapter.tensors, shrink):
            ranks[f"rank/{update.client}"] = torch.tensor(kept)
        else:
            kept = r
        factors = {m: (update.tensors[m + LORA_A][:kept], update.tensors[m + LORA_B][:, :kept]) for m in modules}
        w = sum(product_norm(A, B) ** 2 for A, B in factors.values()) ** 0.5
        for module, (A, B) in factors.items():
            mean.add(module + LORA_A, pad(LORA_A, A, R, "zero"), w)
            mean.add(module + LORA_B, pad(LORA_B, B, R, "zero"), w)
        for name in update.tensors.keys() - {m + end for m in modules for end in (LORA_A, LORA_B)}:
            mean.add(name, update.tensors[name], class_weights(context, update, name, update.samples))
    return context.then(mean.result(context.adapter.tensors), ranks)


def average_replicated(context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
    """Replication padding: components that a client lacks are copied from the clients of highest rank (2406.17477).

    With h_j the mean of component j over the clients of the highest rank in the round, each client of rank r_k ≤ j
    counts h_j as its own; then all are averaged by samples. A component that even those lack stays as it was.
    """
    mean = WeightedMean()
    high: dict[str, tuple[int, WeightedMean]] = {}  # the highest rank so far, and h over who has it
    lacking: dict[str, Tensor] = {}
    for update in updates:
        w = float(update.samples)
        for name, value in update.tensors.items():
            add_part(mean, context, update, name, value, w)
            if not name.endswith((LORA_A, LORA_B)):
                continue
            components = context.components(update, name)
            lacks = torch.full((context.federation.rank,), w, dtype=torch.float64)
            lacks[list(components)] = 0.0
            lacking[name] = lacking.get(name, torch.zeros_like(lacks)) + lacks
            if name not in high or len(components) > high[name][0]:
                high[name] = len(components), WeightedMean()
            if len(components) == high[name][0]:
                add_part(high[name][1], context, update, name, value, w)
    for name, (_, h) in high.items():
        before = context.adapter.tensors[name]
        copied = along_components(name, lacking[name]) * h.added(name, before)
        mean.add(name, h.result({name: before})[name], copied)
    return context.then(mean.result(context.adapter.tensors))
