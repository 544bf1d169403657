from dataclasses import replace

import pytest
import torch

from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext, AllocationContext, options_of, with_fixed_head
from fedhello.types import Adapter, Allocation, Update


def test_each_client_and_round_draws_from_its_own_generator(federation):
    world = federation([1, 1], blocks=2)
    draws = {
        (t, client.id): float(AllocationContext(client, world, t).rng().random())
        for t in range(3)
        for client in world.clients
    }
    assert len(set(draws.values())) == 6
    again = AllocationContext(world.clients[1], replace(world, clients_per_round=1), 2)
    assert float(again.rng().random()) == draws[2, 1], "who else is invited changes nothing"


def test_then_replaces_some_tensors_and_remembers_more(federation):
    adapter = Adapter({"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": 0, "b": None})
    context = AggregationContext(adapter, federation([1], blocks=1), 0, {}, {"old": torch.ones(1)})
    result = context.then({"a": torch.ones(2)}, {"new": torch.ones(1)})
    assert result.adapter.tensors["b"] is adapter.tensors["b"]
    assert bool(result.adapter.tensors["a"].all())
    assert result.method_state.keys() == {"old", "new"}
    assert context.method_state.keys() == {"old"} and not bool(adapter.tensors["a"].any())


def test_components_of_the_head_are_none(federation):
    adapter = Adapter(
        {"q.lora_A.weight": torch.zeros(4, 2), "head.weight": torch.zeros(2)},
        {"q.lora_A.weight": 0, "head.weight": None},
    )
    world = replace(federation([1], blocks=1), rank=4)
    context = AggregationContext(adapter, world, 0, {0: Allocation((0,), ranks=(3,))})
    update = Update(0, 0, 1, {})
    assert context.components(update, "q.lora_A.weight") == (0, 1, 2)
    assert context.components(update, "head.weight") == ()


@pytest.mark.parametrize("capacity", [0, 2])
def test_under_a_fixed_head_whoever_would_train_it_alone_sits_out(capacity, federation):
    world = federation([capacity], blocks=3)
    bound = METHODS["gd-hla"].bind()
    context = AllocationContext(world.clients[0], world, 0)
    assert bound.allocate(context).head
    found = with_fixed_head(bound).allocate(context)
    assert found is None if capacity == 0 else found == replace(bound.allocate(context), head=False)


def test_the_options_of_a_function_are_its_keyword_only_parameters():
    def allocate(context, other=1, *, warmup: int = 3, persist: "bool" = True):
        return None

    assert [(p.name, p.default, p.annotation) for p in options_of(allocate)] == [
        ("warmup", 3, int), ("persist", True, bool),
    ]  # fmt: skip
