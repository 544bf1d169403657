"""FLoRA: factors are stacked, not averaged, so the sum of the products is exact (Wang et al., arXiv 2409.05976).

    A = [A_1; …; A_K],   B = [w_1 B_1 … w_K B_K]   ⇒   s B A = Σ_k w_k s B_k A_k,        w_k = n_k / Σ n_k

Every client merges the stack into its frozen weights, and each round starts from fresh factors (A random, B = 0). Here
the server sends everything merged so far to whoever is invited, as factors or, where those would hold more numbers, as
one matrix per module: a client that was not there for some rounds misses nothing, and since the sum is always added to
the original weights, merging again and again adds no rounding errors.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.product import Products, add_head, merged
from fedhello.factors import pairs
from fedhello.randomness import integer_seed
from fedhello.types import LORA_A, LORA_B, Adapter, Context, Federation, Outcome, Update


def stack(context: Context, updates: Iterable[Update]) -> Outcome:
    """Merge the weighted stack of all clients' factors, and start the next round from fresh ones."""
    rest, products = WeightedMean(), Products()
    for update in updates:
        products.add(update)
        add_head(context, update, rest)
    tensors = rest.result(context.adapter.tensors)
    for i, (module, mean) in enumerate(sorted(products.means().items())):
        tensors |= merged(context, module, mean.scaled(context.federation.scale))
        A, B = context.adapter.tensors[module + LORA_A], context.adapter.tensors[module + LORA_B]
        seed = integer_seed(context.federation.seed, "fresh factors", context.round, i)
        tensors |= {module + LORA_A: fresh_A(A, seed), module + LORA_B: torch.zeros_like(B)}
    return context.then(tensors)


def stack_fits(federation: Federation, adapter: Adapter) -> str | None:
    """Say why a round's stack is too large to make sense; None if it is not.

    At rank min(d_out, d_in) the stack of a module is as large as the product that it stands for, and more. The largest
    stack is that of the ``clients_per_round`` clients of highest rank.
    """
    limit = min(min(B.shape[0], A.shape[1]) for _, _, A, B in pairs(adapter))
    ranks = sorted((federation.tiers[k.tier].rank or federation.rank for k in federation.clients), reverse=True)
    total = sum(ranks[: federation.clients_per_round])
    if total <= limit:
        return None
    return (
        f"expected the ranks of the {federation.clients_per_round} clients of highest rank to sum to at most {limit}, "
        f"since a stack of more is larger than the weights that it changes; found {total}. Lower the ranks or "
        "train.clients_per_round, or choose flexlora or fedex-lora."
    )


def fresh_A(like: Tensor, seed: int) -> Tensor:
    """Return a new random A as PEFT starts it: uniform within ± 1/√d_in; the global random state stays as it was."""
    bound = 1 / math.sqrt(like.shape[1])
    generator = torch.Generator().manual_seed(seed)
    return torch.empty_like(like).uniform_(-bound, bound, generator=generator)
