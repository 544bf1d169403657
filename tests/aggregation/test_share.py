"""The cap on one client's weight: what it does, when it does nothing, and what it is against."""

from dataclasses import replace

import pytest
import torch

from fedhello import algorithm
from fedhello.aggregation.robust import Defence, defended
from fedhello.aggregation.share import MAX_SHARE, most_samples, with_capped_weights
from fedhello.methods import METHODS
from fedhello.model.head import SHRINKAGES, family, solved_head
from fedhello.model.statistics import DEFAULT_STATISTICS, head_sums, plus, scaled_to
from fedhello.types import Adapter, Budget, Client, Federation, Update

HUGE = 2**31 - 1
THETA = Adapter({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": 0, "b": 1})


def federation(counts):
    budget = Budget(blocks=2)
    clients = tuple(Client(k, 0, budget, n) for k, n in enumerate(counts))
    return Federation(clients, (budget,), num_blocks=2, clients_per_round=len(counts), seed=0)


def led_to(counts, max_share, method="full", **options):
    """Play a round in which client k answers with k + 1 everywhere."""

    def train(tasks):
        for task in tasks:
            k = task.client
            value = torch.full((1,), k + 1.0)
            yield Update(k, 0, counts[k], {"a": value, "b": value}, {"batches": float(-(-counts[k] // 16))})

    bound = with_capped_weights(METHODS[method].bind(**options), max_share)
    state, report = algorithm.round(algorithm.init(THETA), federation(counts), bound, train, None)
    return float(state.adapter.tensors["a"]), report


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([70], 140), ([70, HUGE], 140), ([70, 80, HUGE], 160), ([10, 20, 30, HUGE], 60), ([5, HUGE, 7, 9, 8], 18),
        ([0, 0, 70, HUGE], 140), ([0], None), ([], None), ([70] * 15 + [HUGE] * 5, 140),
    ],
)  # fmt: skip
def test_less_than_a_quarter_of_the_clients_do_not_move_the_limit(counts, expected):
    assert most_samples(counts, 2.0) == expected
    assert most_samples(counts, None) is None


def test_a_client_weighs_no_more_than_the_cap_and_the_round_says_which_and_by_how_much():
    value, report = led_to([10, 10, 10, HUGE], 2.0)
    assert value == pytest.approx((10 * 1 + 10 * 2 + 10 * 3 + 20 * 4) / 50)
    assert report.flags == (
        "client 3 weighs as 20 of the 2,147,483,647 samples that it states, since defence.max_share limits it",
    )
    assert report.clients[3].samples == HUGE  # what it stated stays on record


def test_batches_shrink_with_the_samples():
    value, _ = led_to([16, 16, 16, 160], 2.0, weighting="batches")
    assert value == pytest.approx((1 + 2 + 3 + 2 * 4) / 5)


def test_counts_within_the_cap_change_nothing_to_the_bit():
    counts = [10, 10, 16, 20, 200]
    assert led_to(counts, MAX_SHARE)[0] == led_to(counts, None)[0]
    assert led_to(counts, MAX_SHARE)[1].flags == ()


def test_a_rule_gets_capped_weights_where_it_falls_back_on_the_mean():
    bound = defended(METHODS["full"].bind(), Defence(rule="median", byzantine=5, clip=100.0, max_share=2.0))
    values = {k: torch.full((1,), k + 1.0) for k in range(4)}
    counts = [10, 10, 10, HUGE]
    replies = [Update(k, 0, counts[k], {"a": v, "b": v}, {}) for k, v in values.items()]
    state, report = algorithm.round(
        algorithm.init(THETA),
        replace(federation(counts), quorum=1),
        bound,
        lambda tasks: (list(tasks), replies)[1],
        None,
    )
    assert float(state.adapter.tensors["a"]) == pytest.approx(140 / 50)
    assert any("client 3 weighs as 20" in flag for flag in report.flags)


def test_a_round_whose_result_is_not_finite_changes_nothing():
    def train(tasks):
        for task in tasks:
            value = torch.full((1,), float("inf"))
            yield Update(task.client, 0, 1, {"a": value, "b": value})

    state, report = algorithm.round(algorithm.init(THETA), federation([1, 1]), METHODS["full"].bind(), train, None)
    assert report.failed == "the combined values are not finite"
    assert (state.round, state.attempt, state.adapter) == (0, 1, THETA)


K, C, D, N = 20, 5, 10, 40


def clients_data(d=D, spread=1.3):
    """Return 20 clients with two of five classes each, and a test set: Gaussian classes in d dimensions."""
    rng = torch.Generator().manual_seed(0)
    means = spread * torch.randn(C, d, generator=rng)

    def drawn(classes, n):
        y = torch.tensor(classes)[torch.arange(n) % len(classes)]
        return means[y] + torch.randn(n, d, generator=rng), y

    return [drawn([k % C, (k + 1) % C], N) for k in range(K)], drawn(list(range(C)), 1000)


def test_who_claims_two_billion_samples_does_not_own_the_model():
    """One client of 20, honest but for its count: without the cap the model is its own, of two classes."""
    data, (x, y) = clients_data()

    def accuracy(counts, max_share):
        def train(tasks):
            for task in tasks:
                W = task.adapter.tensors["head"].clone().requires_grad_()
                for _ in range(3):
                    own_x, own_y = data[task.client]
                    (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(own_x @ W.T, own_y), W)
                    W = (W - 0.1 * g).detach().requires_grad_()
                yield Update(task.client, task.round, counts[task.client], {"head": W.detach()}, {})

        start = Adapter({"head": torch.zeros(C, D), "a": torch.zeros(1)}, {"head": None, "a": 0})
        bound = with_capped_weights(METHODS["head-only"].bind(), max_share)
        state = algorithm.init(start)
        for _ in range(20):
            state, _ = algorithm.round(state, federation(counts), bound, train, None)
        return float(((x @ state.adapter.tensors["head"].T).argmax(1) == y).double().mean())

    honest, attacked = [N] * K, [HUGE] + [N] * (K - 1)
    before = accuracy(honest, MAX_SHARE)
    assert accuracy(honest, None) == before
    assert accuracy(attacked, None) < before - 0.2
    assert accuracy(attacked, MAX_SHARE) > before - 0.02


def test_who_claims_two_billion_samples_does_not_own_the_head_that_is_solved():
    data, (x, y) = clients_data(d=100, spread=0.35)

    def accuracy(attacked, most):
        total = None
        for k, (own_x, own_y) in enumerate(data):
            sums = head_sums(own_x, own_y, C, DEFAULT_STATISTICS)
            if k == 0 and attacked:
                f = HUGE // N
                sums = replace(sums, counts=sums.counts * f, features=sums.features * f, moments=sums.moments * f)
            part = scaled_to(sums, most)
            total = part if total is None else plus(total, part)
        head = solved_head(family(total, DEFAULT_STATISTICS.moments, "lda", "balanced"), x[:200], y[:200], SHRINKAGES)
        return float(((x @ head.weight.double().T.float() + head.bias.float()).argmax(1) == y).double().mean())

    most = most_samples([HUGE] + [N] * (K - 1), MAX_SHARE)
    before = accuracy(False, None)
    assert accuracy(False, most) == before
    assert accuracy(True, most) > before - 0.02
    assert accuracy(True, None) < before - 0.03
