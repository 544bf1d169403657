"""Case 31: hostile clients, fewer than half: robust rules learn on, and the plain mean is shown to fail.

Clients pull towards targets that differ a little; what counts is how far from their mean the adapter ends.
"""

import pytest
import torch

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.types import Adapter, Update

HOSTILE, CLIENTS, ROUNDS = 3, 9, 25
SIZE, TARGET = 40, 3.0


def sign_flipped(honest, before, draw):
    return before - 4 * (honest - before)


def gaussian(honest, before, draw):
    return before + 100 * torch.randn(before.shape, generator=draw)


def zero(honest, before, draw):
    return torch.zeros_like(before)


def colluding(honest, before, draw):
    return torch.full_like(before, -TARGET)


ATTACKS = [sign_flipped, gaussian, zero, colluding]


def distance(toy, defence, attack=None):
    """Play all rounds; return how far the adapter ends from the honest clients' mean target, in units of it."""
    world, _ = toy(clients=CLIENTS)
    adapter = Adapter(
        {f"{b}.lora_A.weight": torch.zeros(1, SIZE) for b in (0, 1)}, {f"{b}.lora_A.weight": b for b in (0, 1)}
    )
    draw = torch.Generator().manual_seed(0)
    targets = TARGET + 0.3 * torch.randn(CLIENTS, SIZE, generator=draw)

    def train(tasks):
        for task in tasks:
            values = {n: v + 0.3 * (targets[task.client] - v) for n, v in task.adapter.tensors.items()}
            if attack is not None and task.client < HOSTILE:
                values = {n: attack(v, task.adapter.tensors[n], draw) for n, v in values.items()}
            yield Update(task.client, task.round, 10, values)

    state, method = init(adapter), defended(METHODS["full"].bind(), defence)
    for _ in range(ROUNDS):
        state, record = round(state, world, method, train, None)
        assert record.flags == ()
    goal = targets[HOSTILE:].mean(dim=0)
    return max(float((v[0] - goal).norm() / goal.norm()) for v in state.adapter.tensors.values())


NEAR, FAR = 0.1, 0.25


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_plain_mean_fails(toy, attack):
    assert distance(toy, Defence()) < NEAR
    assert not distance(toy, Defence(), attack) < FAR


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_a_robust_rule_ends_where_the_honest_would(toy, rule, attack):
    assert distance(toy, Defence(rule=rule, byzantine=HOSTILE), attack) < NEAR


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_with_fewer_than_it_was_told_a_rule_costs_little(toy, rule):
    assert distance(toy, Defence(rule=rule, byzantine=HOSTILE)) < NEAR


def test_a_clip_alone_withstands_what_is_large_but_not_what_colludes(toy):
    assert distance(toy, Defence(clip=3.0), gaussian) < FAR
    assert distance(toy, Defence(clip=3.0), colluding) > NEAR
