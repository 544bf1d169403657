"""Blocks that few clients update take longer steps."""

import torch

from fedhello.aggregation.compensated import UPDATES, average_compensated
from fedhello.strategy import AggregationContext
from fedhello.types import Adapter, Allocation, Budget, Client, Federation, Update


def test_a_block_moves_farther_by_how_much_rarer_it_was_updated():
    clients = tuple(Client(k, 0, Budget(blocks=2), samples=1) for k in range(4))
    world = Federation(clients, (clients[0].budget,), 3, 4, seed=0)
    zero = Adapter({"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)}, {"a": 0, "b": 1, "c": 2})
    blocks = {0: (0,), 1: (0,), 2: (0,), 3: (1,)}
    context = AggregationContext(zero, world, 0, {k: Allocation(own) for k, own in blocks.items()})

    def updates():
        for k, (block,) in blocks.items():
            yield Update(k, 0, 1, {"abc"[block]: torch.tensor([float(k + 1)])})

    found = average_compensated(context, updates())
    # n = (3, 1, 0), their mean over blocks with updates is 2: block 1 moves 2/1 of its mean, block 0 as it is.
    assert [float(found.adapter.tensors[name]) for name in "abc"] == [2.0, 8.0, 0.0]
    assert found.method_state[UPDATES].tolist() == [3, 1, 0]
    assert found.adapter.tensors["c"] is zero.tensors["c"]
    plain = average_compensated(context, updates(), compensation=1.0)
    assert float(plain.adapter.tensors["b"]) == 4.0
    again = average_compensated(AggregationContext(zero, world, 1, context.allocations, found.method_state), updates())
    assert again.method_state[UPDATES].tolist() == [6, 2, 0]
