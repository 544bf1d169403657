"""Models that are not averaged: HeLoRA-KD's one model per rank, and local-only's one model per client.

They are kept in the method state as ``rank/8/NAME`` and ``client/3/NAME``; a rank or client that has none yet starts
from the global adapter.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.rows import class_weights
from fedhello.aggregation.sums import SumAggregator
from fedhello.factors import held_part, part, spread
from fedhello.state import RunState
from fedhello.strategy import AggregationContext, AggregationResult, AllocationContext, Distillation
from fedhello.types import Adapter, Allocation, Federation, Task, Update


def remembered(method_state: Mapping[str, Tensor], owner: str, names: Iterable[str]) -> dict[str, Tensor]:
    """Return those of some tensors that the method state has under a prefix such as ``rank/8``."""
    return {name: method_state[f"{owner}/{name}"] for name in names if f"{owner}/{name}" in method_state}


def _of(method_state: Mapping[str, Tensor], owner: str, otherwise: Adapter) -> Adapter:
    return otherwise.with_tensors(remembered(method_state, owner, otherwise.tensors))


def _to_remember(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{owner}/{name}": value for name, value in tensors.items()}


def send_model_of_rank(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
    """Let a client start from the model of its rank."""
    model = _of(context.method_state, f"rank/{allocation.ranks[0]}", held_part(adapter, allocation))
    return Task(context.client.id, context.round, allocation, model)


def add_to_rank(context: AggregationContext, update: Update, sums: WeightedMean) -> None:
    """HeLoRA-KD: add the client's model, by samples, to those of its rank; names start with ``rank/8/``."""
    owner = f"rank/{context.allocations[update.client].ranks[0]}"
    for name, value in update.tensors.items():
        sums.add(f"{owner}/{name}", value, class_weights(context, update, name, update.samples))


def rank_tensors(context: AggregationContext) -> dict[str, Tensor]:
    """Return the tensors of each rank's model, as clients of this round start from them, by their names in the sum."""
    models = _models_of_round(context)
    return {
        key: value for r, model in models.items() for key, value in _to_remember(f"rank/{r}", model.tensors).items()
    }


def _models_of_round(context: AggregationContext) -> dict[int, Adapter]:
    seen = {allocation.ranks[0] for allocation in context.allocations.values()}
    return rank_models(context.method_state, context.adapter, context.federation.num_blocks, seen)


def learn_between_ranks(
    context: AggregationContext,
    sums: WeightedMean,
    *,
    teachers: Literal["others", "all"] = "others",
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    distil_epochs: Annotated[int, Field(ge=1)] = 1,
    distil_lr: Annotated[float, Field(gt=0)] = 5e-4,
    distil_batch: Annotated[int, Field(ge=1)] = 32,
) -> AggregationResult:
    """HeLoRA-KD: the clients of one rank are averaged, then the ranks' models learn from each other (ACM TOIT 2025).

        minimise  KL( softmax(z̄/T) ‖ softmax(z_r/T) ) T²,        z̄ = mean of the other models' logits

    on a public set that no client holds. From the paper: mutual learning in which each model keeps its structure. From
    the published code: the mean of ``all`` models' logits, T = 1, and one upload per rank and round. Ours: the
    ``others`` only, as mutual learning has it; teachers without dropout; a public set that is disjoint from the
    clients' data; averaging where several clients of one rank answer. The global adapter is the highest rank's model.

    Raises:
        ValueError: If there is no public set.
    """
    if context.distil is None:
        raise ValueError("distillation needs a public set")
    means = sums.result(rank_tensors(context))
    if not means:
        return context.then({})
    models = {r: _of(means, f"rank/{r}", model) for r, model in _models_of_round(context).items()}
    learnt = dict(models)
    if len(models) > 1:
        how = Distillation(teachers, temperature, distil_epochs, distil_lr, distil_batch)
        learnt = dict(zip(models, context.distil(list(models.values()), how, context.round), strict=True))
    method_state = {
        key: value for r, model in learnt.items() for key, value in _to_remember(f"rank/{r}", model.tensors).items()
    }
    highest = max(learnt)
    return context.then(_as_global(context.adapter, learnt[highest], highest), method_state)


distil_between_ranks = SumAggregator(add_to_rank, learn_between_ranks, rank_tensors)
"""HeLoRA-KD's mean per rank, and what the ranks learn from each other."""


def _as_global(adapter: Adapter, model: Adapter, rank: int) -> dict[str, Tensor]:
    """Return the global tensors with a model's in the first components; further components stay as they are."""
    rest = range(rank, adapter.rank)
    found = {}
    for n, value in model.tensors.items():
        like = adapter.tensors[n]
        further = spread(n, part(n, like, rest), like, rest) if value.shape != like.shape else torch.zeros(())
        found[n] = spread(n, value, like, range(rank)) + further
    return found


def rank_models(
    method_state: Mapping[str, Tensor], adapter: Adapter, num_blocks: int, more: Iterable[int] = ()
) -> dict[int, Adapter]:
    """Return the model of each rank, by rank, ascending: those remembered, and those of more ranks."""
    ranks = {int(name.split("/")[1]) for name in method_state if name.startswith("rank/")} | set(more)
    everywhere = tuple(range(num_blocks))
    return {
        r: _of(method_state, f"rank/{r}", held_part(adapter, Allocation(everywhere, ranks=(r,) * num_blocks)))
        for r in sorted(ranks)
    }


def models_by_rank(state: RunState, federation: Federation) -> dict[str, Adapter]:
    """Return HeLoRA-KD's models, each under its rank; before the first round there is only the global adapter."""
    models = rank_models(state.method_state, state.adapter, federation.num_blocks)
    return {f"rank {r}": model for r, model in models.items()} or {"": state.adapter}


def send_own_model(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
    """Let a client go on from its own model; once it has one, nothing is sent."""
    k = context.client.id
    own = remembered(context.method_state, f"client/{k}", adapter.tensors)
    known = frozenset(adapter.tensors) if own else frozenset()
    return Task(k, context.round, allocation, adapter.with_tensors(own), known)


def keep_own_models(context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
    """local-only: every client keeps what it trained; the global adapter stays as it was before training."""
    method_state = {
        key: value
        for update in updates
        for key, value in _to_remember(f"client/{update.client}", update.tensors).items()
    }
    return context.then({}, method_state)


def models_by_client(state: RunState, federation: Federation) -> dict[str, Adapter]:
    """Return local-only's models, each under its client."""
    return {f"client {k.id}": _of(state.method_state, f"client/{k.id}", state.adapter) for k in federation.clients}
