"""Layer-wise averaging: every tensor is averaged over the clients that trained it (Fed-HeLLo, Eq. 3).

The paper's weights were known to us from second hand only, as "by client counts"; w_k is therefore an option.

    θ_l ← Σ_{k ∈ C_l} w_k θ_{k,l} / Σ_{k ∈ C_l} w_k,        C_l = the selected clients that hold block l

which equals θ_l + Σ w_k δ_{k,l} / Σ w_k for the deltas δ_{k,l} = θ_{k,l} − θ_l. A tensor that nobody trained
stays as it is. The denominator belongs to the tensor, not to the round.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from fedhello.errors import UpdateError
from fedhello.types import Adapter, Update

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


def average_layerwise(adapter: Adapter, updates: Iterable[Update], *, weighting: Weighting = "samples") -> Adapter:
    """Average each tensor over its contributors.

    Updates are consumed one by one and only running sums are kept, in float64: the memory is that of one
    adapter, however many clients answer. As the updates come in ascending client id, equal runs give equal
    bits.

    Args:
        adapter: θ, the global adapter that the clients started from.
        updates: The clients' new values, ascending client id.
        weighting: What w_k counts.

    Returns:
        The next global adapter. Tensors without a contributor are the very same objects as before.
    """
    sums: dict[str, Tensor] = {}
    totals: dict[str, float] = {}
    for update in updates:
        w = weight_of(update, weighting)
        for name, value in update.tensors.items():
            if name in sums:
                sums[name].add_(value.double(), alpha=w)
            else:
                sums[name] = value.double() * w
            totals[name] = totals.get(name, 0.0) + w
    averaged = {name: (sums[name] / totals[name]).to(adapter.tensors[name].dtype) for name in sums}
    return replace(adapter, tensors={**adapter.tensors, **averaged})
