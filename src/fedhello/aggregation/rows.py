"""Rows of the head are averaged over the clients that hold their class.

Under a loss that is restricted to a client's own classes, the other classes' logits have no gradient. A client without
class c returns row c of the logits layer as it came, or shrunk by weight decay; in a mean over all clients it would
drag the row back:

    w_c ← Σ_{k ∈ H_c} w_k w_{k,c} / Σ_{k ∈ H_c} w_k,        H_c = the contributors that hold class c

and likewise the bias. A row without a contributor that holds its class stays as it was. Where the loss runs over all
classes, absent ones have gradients, and all clients count for all rows.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from fedhello.strategy import AggregationContext
from fedhello.types import Update


def class_weights(context: AggregationContext, update: Update, name: str, w: float) -> float | Float64[Tensor, "C ..."]:
    """Return a client's weight in the mean of a tensor: w, or one weight per row where only its own classes count.

    Args:
        context: Its federation says of which tensors the rows belong to classes.
        update: The client's.
        name: Of the tensor.
        w: The client's weight otherwise.

    Returns:
        w; or float64 of shape (C, 1, …), w in the rows of the client's classes and 0 in the others.
    """
    like, own = context.adapter.tensors[name], held_rows(context, update, name)
    if len(own) == len(like):
        return w
    weights = torch.zeros(len(like), dtype=torch.float64)
    weights[list(own)] = w
    return weights.reshape(-1, *[1] * (like.dim() - 1))


def held_rows(context: AggregationContext, update: Update, name: str) -> Sequence[int]:
    """Return the rows of a tensor to which a client contributes, ascending: those of its own classes, or all."""
    every = range(len(context.adapter.tensors[name]))
    if name not in context.federation.class_rows:
        return every
    return context.federation.by_id[update.client].classes or every
