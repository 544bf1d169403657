"""FLoRA: factors are stacked, not averaged, so the sum of the products is exact (Wang et al., arXiv 2409.05976).

    A = [A_1; …; A_K],   B = [w_1 B_1 … w_K B_K]   ⇒   s B A = Σ_k w_k s B_k A_k,        w_k = n_k / Σ n_k

The server holds the factors of a round, since they are what clients get; a stack that would hold more numbers than the
matrix it is equal to is added up as that matrix (see ``lowrank``).

Every client merges the stack into its frozen weights, and each round starts from fresh factors (A random, B = 0). A
client that was not there for some rounds gets what it missed: the stacks of those rounds as factors, or, where that
would be more numbers, everything merged so far, as factors or as one matrix per module. The server therefore remembers

    has/k                     the last round in whose beginning client k, whose update counted, had everything merged
    stack/t/….merged_A.weight, stack/t/….merged_B.weight         what round t merged; none older than can be of use
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.product import Products, add_head, merged
from fedhello.factors import pairs, send_part
from fedhello.randomness import integer_seed
from fedhello.strategy import AggregationContext, AggregationResult, AllocationContext
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Adapter, Allocation, Federation, Task, Update


def stack(context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
    """Merge the weighted stack of all clients' factors, and start the next round from fresh ones."""
    rest, products, method_state = WeightedMean(), Products(), dict(context.method_state)
    for update in updates:
        products.add(update)
        add_head(context, update, rest)
        method_state[f"has/{update.client}"] = torch.tensor(context.round)
    tensors = rest.result(context.adapter.tensors)
    for i, (module, mean) in enumerate(sorted(products.means().items())):
        more = mean.scaled(context.federation.scale)
        tensors |= merged(context, module, more)
        A, B = context.adapter.tensors[module + LORA_A], context.adapter.tensors[module + LORA_B]
        for name, value in zip(_stacked(context.round, module), reversed(more.factors()), strict=True):
            method_state[name] = value.to(A.dtype).contiguous()
        seed = integer_seed(context.federation.seed, "fresh factors", context.round, i)
        tensors |= {module + LORA_A: fresh_A(A, seed), module + LORA_B: torch.zeros_like(B)}
    return AggregationResult(context.adapter.with_tensors(tensors), _of_use(method_state, context))


def _stacked(round: int, module: str) -> tuple[str, str]:
    """Return the names in the method state of what a round merged into a module: A's stack and B's."""
    return f"stack/{round}/{module}{MERGED_A}", f"stack/{round}/{module}{MERGED_B}"


def _of_use(method_state: dict[str, Tensor], context: AggregationContext) -> dict[str, Tensor]:
    """Return the method state without stacks that, with all later ones, hold more numbers than the matrix."""
    for module, _, A, B in pairs(context.adapter):
        size, t = 0, context.round
        while all(name in method_state for name in _stacked(t, module)):
            size += sum(method_state[name].numel() for name in _stacked(t, module))
            if size >= B.shape[0] * A.shape[1]:
                method_state = {name: value for name, value in method_state.items() if name not in _stacked(t, module)}
            t -= 1
    return method_state


def send_missed(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
    """Send a client what was merged since it last took part, or everything merged, whichever holds fewer numbers.

    The client keeps what it has merged; where it has lost that, an engine sends the adapter of the task, which always
    holds everything.
    """
    task, since = send_part(adapter, allocation, context), context.method_state.get(f"has/{context.client.id}")
    if since is None:
        return task
    known: set[str] = set()
    missed: dict[str, Tensor] = {}
    for module in adapter.modules:
        ends = (MERGED, MERGED_A, MERGED_B)
        whole = {module + end: adapter.tensors[module + end] for end in ends if module + end in adapter.tensors}
        less = _missed(context, module, int(since))
        if less is not None and _numbers(less) < _numbers(whole):
            known |= whole.keys()
            missed |= less
    return replace(task, known=frozenset(known), missed=missed)


def _missed(context: AllocationContext, module: str, since: int) -> dict[str, Float[Tensor, "_ _"]] | None:
    """Return what was merged into a module from a round on, as factors; None if that is not remembered."""
    names = [_stacked(t, module) for t in range(since, context.round)]
    if not all(name in context.method_state for pair in names for name in pair):
        return None
    P = torch.cat([context.method_state[of_A] for of_A, _ in names])
    Q = torch.cat([context.method_state[of_B] for _, of_B in names], dim=1)
    return {module + MERGED_A: P, module + MERGED_B: Q}


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def stack_fits(federation: Federation, adapter: Adapter) -> str | None:
    """Return why a round's stack is larger than the weights it changes, as a sentence; None if it is not.

    From rank min(d_out, d_in) on, the stack of a module is larger than the product itself. The largest
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


def fresh_A(like: Float[Tensor, "r d_in"], seed: int) -> Float[Tensor, "r d_in"]:
    """Return a new random A as PEFT starts it: uniform within ± 1/√d_in; the global random state stays as it was."""
    bound = 1 / math.sqrt(like.shape[1])
    generator = torch.Generator().manual_seed(seed)
    return torch.empty_like(like).uniform_(-bound, bound, generator=generator)
