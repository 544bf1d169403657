"""Case 16: factors of which one is huge and one tiny, with the product of honest ones."""

from dataclasses import replace

import torch

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.types import Adapter, Update

A, B = "0.q.lora_A.weight", "0.q.lora_B.weight"


def play(toy, defence):
    """Four clients; the last turns the gauge, which leaves B A as it is. Values are half precision."""
    world, _ = toy(clients=4, rank=2)
    world = replace(world, num_blocks=1)
    draw = torch.Generator().manual_seed(0)
    adapter = Adapter({A: torch.randn(2, 8, generator=draw).bfloat16(), B: torch.zeros(8, 2).bfloat16()}, {A: 0, B: 0})

    def train(tasks):
        for task in tasks:
            gauge = 1e8 if task.client == 3 else 1.0
            product = 0.1 * torch.randn(8, 2, generator=draw)
            values = {A: (adapter.tensors[A].float() / gauge).bfloat16(), B: (product * gauge).bfloat16()}
            yield Update(task.client, task.round, 10, values)

    return round(init(adapter), world, defended(METHODS["full"].bind(), defence), train, None)


def test_the_norm_of_a_factor_gives_it_away(toy):
    state, record = play(toy, Defence(screen=5.0))
    assert [(r.client, r.reason) for r in record.rejections] == [(3, "out of bounds")]
    assert f"‖{B}‖" in record.rejections[0].detail
    assert float(state.adapter.tensors[B].float().abs().max()) < 1
    assert all(bool(value.half().isfinite().all()) for value in state.adapter.tensors.values())


def test_the_bound_that_is_on_by_default_shortens_it(toy):
    state, record = play(toy, Defence())
    assert record.flags[0].startswith("client 3 moved the model")
    assert all(bool(value.half().isfinite().all()) for value in state.adapter.tensors.values())


def test_without_either_the_mean_leaves_half_precision(toy):
    state, _ = play(toy, Defence(max_norm=None))
    assert not bool(state.adapter.tensors[B].half().isfinite().all())
