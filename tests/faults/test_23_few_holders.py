"""Case 23: a block that nobody trained keeps its bits; one that a single client trained has its value, and a flag.

For the weighted mean, see ``tests/laws/test_aggregation_laws.py``.
"""

import pytest
import torch

from fedhello.aggregation.robust import Defence, combine
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext
from fedhello.types import Update


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_blocks_of_nobody_and_of_one_client(toy, rule):
    world, adapter = toy()
    alone = Update(2, 0, 10, {"1.lora_A.weight": torch.tensor([[0.1, 0.3]])})
    mean = METHODS["full"].bind().aggregate
    found = combine(AggregationContext(adapter, world, 0, {}), [alone], aggregate=mean, defence=Defence(rule=rule))
    assert found.adapter.tensors["0.lora_A.weight"] is adapter.tensors["0.lora_A.weight"]
    assert torch.equal(found.adapter.tensors["1.lora_A.weight"], alone.tensors["1.lora_A.weight"])
    assert [flag.endswith("plain mean of block 1 (1)") for flag in found.flags] == [True]
