"""Compensate blocks that few clients update, as Fed-pilot does (Zhang et al., arXiv 2410.10200).

    θ_l ← θ_l + γ_l (mean over those who trained l − θ_l),        γ_l = min(``compensation``, max(1, n̄/n_l))

with n_l the updates of block l that clients were asked for in rounds in which it moved, this one included, and n̄ their
mean over the blocks that had any.
That blocks are compensated by how often they were updated is the paper's idea; its formula was not at hand, so this
is ours.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedhello.aggregation.layerwise import add_layerwise
from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.sums import SumAggregator, take_mean
from fedhello.strategy import AggregationContext, AggregationResult

Compensation = Annotated[float, Field(ge=1)]
UPDATES = "compensated/updates"
"""Name in the method state: n_l, shape (L,)."""


def compensate(
    context: AggregationContext, sums: WeightedMean, *, compensation: Compensation = 2.0
) -> AggregationResult:
    """Return the layer-wise mean, with longer steps of blocks that were updated less often than others.

    Args:
        context: With θ, and with n_l in the method state.
        sums: Over the clients.
        compensation: The largest γ; 1 compensates nothing.
    """
    result, before = take_mean(context, sums), context.adapter
    moved = {
        before.block_of[name] for name, value in result.adapter.tensors.items() if value is not before.tensors[name]
    }
    if moved <= {None}:
        return result
    asked = torch.zeros(context.federation.num_blocks, dtype=torch.float64)
    for allocation in context.allocations.values():
        asked[[block for block in allocation.blocks if block in moved]] += 1
    n = context.method_state.get(UPDATES, torch.zeros_like(asked)) + asked
    γ = (n[n > 0].mean() / n.clamp_min(1)).clamp(1, compensation)
    longer: dict[str, Tensor] = {}
    for name, value in result.adapter.tensors.items():
        old, block = before.tensors[name], before.block_of[name]
        if block is not None and value is not old and γ[block] > 1:
            longer[name] = (old.double() + γ[block] * (value.double() - old.double())).to(old.dtype)
    return AggregationResult(result.adapter.with_tensors(longer), {**context.method_state, UPDATES: n})


average_compensated = SumAggregator(add_layerwise, compensate)
"""The mean of each tensor over its contributors, farther where a block was updated less often than others."""
