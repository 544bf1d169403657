"""Case 33: fewer holders than a rule needs, for every number of them and every f."""

import pytest
import torch

from fedhello.aggregation.robust import Defence, combine
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext
from fedhello.types import Update


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_never_an_error_and_a_flag_exactly_where_there_are_too_few(toy, rule):
    world, adapter = toy(clients=12)
    mean = METHODS["full"].bind().aggregate
    for f in range(5):
        defence = Defence(rule=rule, byzantine=f)
        for n in range(1, 13):
            updates = [Update(k, 0, 10, {"0.lora_A.weight": torch.full((1, 2), float(k))}) for k in range(n)]
            found = combine(AggregationContext(adapter, world, 0, {}), updates, aggregate=mean, defence=defence)
            enough = n >= 2 * f + (3 if rule == "multi-krum" else 1)
            assert (found.flags == ()) == enough, (f, n)
            value = found.adapter.tensors["0.lora_A.weight"]
            assert bool(value.isfinite().all())
            if not enough:
                assert torch.equal(
                    value, mean(AggregationContext(adapter, world, 0, {}), updates).adapter.tensors["0.lora_A.weight"]
                )
