"""Case 65: a client that states 2³¹ − 1 samples, and one that sends −20 times its update besides.

By default the count is capped, and an update beyond five times the usual length is shortened and loses the weight that
its client states. So plain means, without a line search, learn on. Who stays within both bounds, with ten times the
others' samples, still undoes them; the page says so. What cap and bound do in general: ``tests/aggregation/``, in
``test_share.py`` and ``test_bound.py``.
"""

from pathlib import Path

import pytest
import torch

from fedhello import algorithm
from fedhello.aggregation.bound import MAX_NORM
from fedhello.aggregation.robust import Defence, defended
from fedhello.aggregation.server import ServerStep, with_server_step
from fedhello.aggregation.share import MAX_SHARE
from fedhello.config.load import load_config
from fedhello.methods import METHODS
from fedhello.types import Adapter, Budget, Client, Federation, Update

HUGE, N, K, CLASSES, SIZE = 2**31 - 1, 60, 20, 8, 16
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "defend-a-run.md"


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, SIZE, generator=rng)

    def drawn(n):
        y = torch.arange(n) % CLASSES
        return means[y] + torch.randn(n, SIZE, generator=rng), y

    return [drawn(N) for _ in range(K)], drawn(1000)


def accuracy(data, attack, defence, step="none", rounds=20, states=HUGE, invited=K):
    """Train a linear classifier; client 0 states a huge count, and sends what an attack makes of its update."""
    clients, (x, y) = data
    counts = [states if attack is not None and k == 0 else N for k in range(K)]

    def train(tasks):
        for task in tasks:
            k, start = task.client, task.adapter.tensors["head"]
            W = start.clone().requires_grad_()
            (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(clients[k][0] @ W.T, clients[k][1]), W)
            change = -0.5 * g
            yield Update(k, task.round, counts[k], {"head": start + (attack(change) if attack and k == 0 else change)})

    def losses(adapter):
        return torch.nn.functional.cross_entropy(x @ adapter.tensors["head"].T, y, reduction="none")

    budget = Budget(blocks=1)
    there = Federation(
        tuple(Client(k, 0, budget, counts[k]) for k in range(K)),
        (budget,),
        num_blocks=1,
        clients_per_round=invited,
        seed=0,
    )
    start = Adapter({"head": torch.zeros(CLASSES, SIZE), "a": torch.zeros(1)}, {"head": None, "a": 0})
    state = algorithm.init(start)
    bound = with_server_step(defended(METHODS["head-only"].bind(), defence), ServerStep(step), losses)
    for _ in range(rounds):
        state, _ = algorithm.round(state, there, bound, train, None)
    return float(((x @ state.adapter.tensors["head"].T).argmax(1) == y).double().mean())


NONE, CAPPED = Defence(max_share=None, max_norm=None), Defence(max_norm=None)


def times(factor):
    return lambda change: factor * change


def a_million(change):
    """10⁶ in each number, with signs, since logits that all grow alike change no answer."""
    return 1e6 * torch.where(torch.arange(change.numel()).reshape(change.shape) % 3 == 0, 1.0, -1.0)


def test_both_are_on_by_default():
    defence = load_config(None).defence
    assert (defence.max_share, defence.max_norm) == (MAX_SHARE, MAX_NORM)


def test_a_count_alone_moves_accuracy_by_five_points_at_most(data):
    honest = accuracy(data, None, Defence())
    assert honest > 0.9
    assert accuracy(data, None, NONE) == honest
    assert accuracy(data, times(1), Defence()) > honest - 0.05


@pytest.mark.parametrize("invited", [5, K])
@pytest.mark.parametrize("states", [N, HUGE])
@pytest.mark.parametrize("attack", [times(-20), times(-1000), a_million])
def test_a_length_moves_accuracy_by_five_points_at_most(data, attack, states, invited):
    honest = accuracy(data, None, Defence(), invited=invited)
    assert accuracy(data, attack, CAPPED, states=states, invited=invited) < honest - 0.4, "before"
    assert accuracy(data, attack, Defence(), states=states, invited=invited) > honest - 0.05


def test_a_line_search_takes_no_step_that_does_harm(data):
    assert accuracy(data, times(-20), CAPPED, "search", rounds=3) >= 1 / CLASSES - 0.05


def test_five_times_the_length_alone_is_borne_and_with_ten_times_the_samples_it_is_not_and_the_page_says_so(data):
    honest = accuracy(data, None, Defence())
    assert accuracy(data, times(-4.9), Defence(), states=N) > honest - 0.05
    assert accuracy(data, times(-4.9), Defence()) < 0.2
    assert accuracy(data, times(-7), Defence(max_share=2.0)) > honest - 0.05, "the most that five times √2 allows"
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "A client within both, with ten times the samples of the others and five times their length" in text
