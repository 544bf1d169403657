"""Layer-wise averaging: every tensor is averaged over the clients that trained it (Fed-HeLLo, Eq. 3).

The paper's weights were available to us only second-hand, as "by client counts"; w_k is therefore an option.

    θ_l ← Σ_{k ∈ C_l} w_k θ_{k,l} / Σ_{k ∈ C_l} w_k,        C_l = the selected clients that hold block l

which equals θ_l + Σ w_k δ_{k,l} / Σ w_k for the deltas δ_{k,l} = θ_{k,l} − θ_l. A tensor that nobody trained
stays as it is. The denominator belongs to the tensor, not to the round.

Where clients hold different ranks or components, the same rule holds for each component j by itself, over the clients
that hold it: RBLA (Tavallaie & Nazemi, arXiv 2408.08699), and the aggregation of Fed-PLoRA (arXiv 2602.16936). Where
all hold all, it is FedAvg. What holds for components of a factor holds for the head's rows of classes; see
``fedhello.aggregation.rows``.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.rows import class_weights
from fedhello.aggregation.sums import SumAggregator
from fedhello.errors import UpdateError
from fedhello.factors import along_components, spread
from fedhello.strategy import AggregationContext
from fedhello.types import Update

Weighting = Literal["samples", "clients", "batches"]


def weight_of(update: Update, weighting: Weighting) -> float:
    """Return w_k: the client's samples n_k, 1, or its number of batches (as the published code counts).

    Raises:
        UpdateError: If the client states an impossible number of batches.
    """
    match weighting:
        case "samples":
            return float(update.samples)
        case "clients":
            return 1.0
        case "batches":
            batches = update.metrics.get("batches", 0)
            if not 1 <= batches <= update.samples:
                raise UpdateError(
                    f"expected client {update.client} to state between 1 and {update.samples} batches; found {batches}"
                )
            return float(batches)


def add_layerwise(
    context: AggregationContext, update: Update, sums: WeightedMean, *, weighting: Weighting = "samples"
) -> None:
    """Add w_k θ_{k,l} and w_k of every tensor, and every component of a factor, that the client trained.

    Args:
        context: With θ, the global adapter that the client started from.
        update: The client's new values.
        sums: What they are added to.
        weighting: What w_k counts.
    """
    w = weight_of(update, weighting)
    for name, value in update.tensors.items():
        add_part(sums, context, update, name, value, w)


average_layerwise = SumAggregator(add_layerwise)
"""The mean of each tensor, and of each component of a factor, over its contributors."""


def add_part(
    mean: WeightedMean,
    context: AggregationContext,
    update: Update,
    name: str,
    value: Float[Tensor, "..."],
    w: float,
) -> None:
    """Add a client's part of a tensor with weight w at its components or classes, and with weight 0 at the others."""
    like = context.adapter.tensors[name]
    if value.shape == like.shape:
        mean.add(name, value, class_weights(context, update, name, w))
        return
    components = context.components(update, name)
    held = torch.zeros(context.federation.rank, dtype=torch.float64)
    held[list(components)] = w
    mean.add(name, spread(name, value, like, components), along_components(name, held))
