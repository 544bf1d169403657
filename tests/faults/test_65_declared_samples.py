"""Case 65: a client that states 2³¹ − 1 samples, and one that sends −20 times its update besides.

The count alone is capped by default. An update in the wrong direction and of twenty times the norm is not a matter of
counts: the default line search does not take a step that leads there, and ``defence.screen`` leaves it out. What the
cap does in general, and to head statistics: ``tests/aggregation/test_share.py``.
"""

import pytest
import torch

from fedhello import algorithm
from fedhello.aggregation.robust import Defence, defended
from fedhello.aggregation.server import ServerStep, with_server_step
from fedhello.aggregation.share import MAX_SHARE
from fedhello.config.load import load_config
from fedhello.methods import METHODS
from fedhello.types import Adapter, Budget, Client, Federation, Update

HUGE, N, K, CLASSES, SIZE = 2**31 - 1, 60, 20, 8, 16


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, SIZE, generator=rng)

    def drawn(n):
        y = torch.arange(n) % CLASSES
        return means[y] + torch.randn(n, SIZE, generator=rng), y

    return [drawn(N) for _ in range(K)], drawn(1000)


def accuracy(data, times, defence, step="none", rounds=20):
    """Train a linear classifier; client 0 states a huge count and sends so many times its update, if not None."""
    clients, (x, y) = data
    counts = [HUGE if times is not None and k == 0 else N for k in range(K)]

    def train(tasks):
        for task in tasks:
            k, start = task.client, task.adapter.tensors["head"]
            W = start.clone().requires_grad_()
            (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(clients[k][0] @ W.T, clients[k][1]), W)
            change = -0.5 * g * (times if times is not None and k == 0 else 1)
            yield Update(k, task.round, counts[k], {"head": start + change}, {})

    def losses(adapter):
        return torch.nn.functional.cross_entropy(x @ adapter.tensors["head"].T, y, reduction="none")

    budget = Budget(blocks=1)
    there = Federation(
        tuple(Client(k, 0, budget, counts[k]) for k in range(K)), (budget,), num_blocks=1, clients_per_round=K, seed=0
    )
    start = Adapter({"head": torch.zeros(CLASSES, SIZE), "a": torch.zeros(1)}, {"head": None, "a": 0})
    state = algorithm.init(start)
    bound = with_server_step(defended(METHODS["head-only"].bind(), defence), ServerStep(step), losses)
    for _ in range(rounds):
        state, _ = algorithm.round(state, there, bound, train, None)
    return float(((x @ state.adapter.tensors["head"].T).argmax(1) == y).double().mean())


NONE = Defence(max_share=None)


def test_a_count_alone_moves_accuracy_by_five_points_at_most(data):
    assert load_config(None).defence.max_share == MAX_SHARE, "on by default"
    honest = accuracy(data, None, Defence())
    assert honest > 0.9
    assert accuracy(data, None, NONE) == honest
    assert accuracy(data, 1, Defence()) > honest - 0.05


def test_twenty_times_an_update_backwards(data):
    honest = accuracy(data, None, Defence())
    assert accuracy(data, -20, NONE) < 0.2, "before"
    assert accuracy(data, -20, Defence()) < 0.2, "a cap alone does not help against the norm"
    assert accuracy(data, -20, Defence(), "search", rounds=3) >= 1 / CLASSES - 0.05, "no step is taken that does harm"
    assert accuracy(data, -20, Defence(screen=5.0)) > honest - 0.05
