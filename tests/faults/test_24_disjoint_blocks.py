"""Case 24, for rules: clients with disjoint blocks are two federations (for the mean: ``tests/laws``)."""

import pytest
import torch

from fedhello.aggregation.robust import Defence, combine
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext
from fedhello.types import Update


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_each_block_is_combined_as_if_there_were_no_other(toy, rule):
    world, adapter = toy(clients=10)
    draw = torch.Generator().manual_seed(0)

    def result(updates):
        mean = METHODS["full"].bind().aggregate
        found = combine(AggregationContext(adapter, world, 0, {}), updates, aggregate=mean, defence=Defence(rule=rule))
        return found.adapter.tensors

    updates = [Update(k, 0, 10, {f"{k % 2}.lora_A.weight": torch.randn(1, 2, generator=draw)}) for k in range(10)]
    both, even, odd = result(updates), result(updates[::2]), result(updates[1::2])
    assert torch.equal(both["0.lora_A.weight"], even["0.lora_A.weight"])
    assert torch.equal(both["1.lora_A.weight"], odd["1.lora_A.weight"])
    assert not torch.equal(both["0.lora_A.weight"], adapter.tensors["0.lora_A.weight"])
