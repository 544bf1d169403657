"""Blocks close from below, in order, for good, and for everyone."""

import pytest
import torch

from fedhello.algorithm import init, round
from fedhello.allocation.freezing import CLOSED, at_rest, closed_blocks, with_freezing
from fedhello.methods import METHODS
from fedhello.runs.checkpoint import Checkpoint, decode, encode
from fedhello.types import Adapter, Budget, Client, Federation, Update

L = 4
SPEED = (1.0, 4.0, 2.0, 3.0)
"""How far each block moves in a round in which it is trained."""


def federation():
    tiers = (Budget(blocks=2), Budget(blocks=L))
    clients = tuple(Client(k, k % 2, tiers[k % 2], samples=1) for k in range(4))
    return Federation(clients, tiers, L, clients_per_round=4, seed=0)


def train(tasks):
    for task in tasks:
        names = task.adapter.names(task.allocation)
        values = {n: task.adapter.tensors[n] + SPEED[task.adapter.block_of[n]] for n in names}
        yield Update(task.client, task.round, 1, values)


def start():
    names = {f"b{l}.lora_{factor}.weight": l for l in range(L) for factor in "AB"}
    return init(Adapter({name: torch.zeros(1, 1) for name in names}, names))


def played(name, rounds, state=None, **options):
    method = with_freezing(METHODS[name].bind(freeze_from_below=2, **options))
    state, lowest = state or start(), []
    score = (lambda *_: (1.0, 3.0, 2.0, 4.0)) if METHODS[name].uses_scores else None
    for _ in range(rounds):
        state, report = round(state, federation(), method, train, score)
        lowest.append(min(l for client in report.clients for l in client.blocks))
    return state, lowest


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if "freeze_from_below" in m.options.model_fields])
def test_the_lowest_block_closes_once_it_moves_less_than_the_others(name):
    state, lowest = played(name, 8)
    # Block 0 moves least and closes after two rounds; then block 1 moves most and nothing closes any more.
    assert closed_blocks(state.method_state) == 1
    assert all(block >= 1 for block in lowest[2:])
    first, _ = played(name, 2)
    for own, value in first.adapter.tensors.items():
        assert torch.equal(value, state.adapter.tensors[own]) == (first.adapter.block_of[own] == 0)


def test_without_the_option_nothing_closes():
    method = METHODS["gd-hla"].bind()
    assert with_freezing(method) is method and method.freeze_every is None


def test_a_block_that_nobody_trained_neither_closes_nor_counts():
    nan = float("nan")
    assert not at_rest([nan, 1.0]) and not at_rest([nan, nan])
    assert at_rest([1.0, nan, 2.0]) and not at_rest([2.0, nan, 1.0])
    world = Federation((Client(0, 0, Budget(blocks=1), 1),), (Budget(blocks=1),), L, clients_per_round=1, seed=0)
    method = with_freezing(METHODS["gd-hla"].bind(freeze_from_below=1, pattern="inverted_triangle"))
    state = start()
    for _ in range(3):
        state, _ = round(state, world, method, train, None)
    assert closed_blocks(state.method_state) == 0


def test_the_last_block_stays_open():
    assert not at_rest([0.0])
    assert at_rest([0.0, 0.0]) and at_rest([1.0, 2.0]) and not at_rest([2.0, 1.0])


def test_a_resumed_run_closes_the_same_blocks():
    whole, lowest = played("rgd-hla", 7)
    half, _ = played("rgd-hla", 3)
    assert CLOSED in half.method_state
    resumed, rest = played("rgd-hla", 4, decode(encode(Checkpoint(3, half))).state)
    assert rest == lowest[3:]
    assert all(torch.equal(resumed.adapter.tensors[n], whole.adapter.tensors[n]) for n in whole.adapter.tensors)
    assert all(torch.equal(value, resumed.method_state[n]) for n, value in whole.method_state.items())
