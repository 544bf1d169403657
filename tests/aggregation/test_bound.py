"""The bound on the length of updates; what attacks come to: ``tests/faults/test_65_declared_samples.py``."""

from dataclasses import replace

import pytest
import torch

from fedhello import algorithm
from fedhello.aggregation.bound import TIMES_USUAL, Bound, bound_of, bounded, lengths, with_bounded_norms
from fedhello.methods import METHODS
from fedhello.types import Adapter, Budget, Client, Federation, Rejection, Update

A, B = "0.q.lora_A.weight", "0.q.lora_B.weight"
START = Adapter({A: torch.zeros(1, 4), B: torch.zeros(4, 1), "head": torch.zeros(2)}, {A: 0, B: 0, "head": None})
FIVE = Bound(5.0, typical=16, most=1600)


def moved(k, blocks, samples=16, head=None):
    """An update that moves all factors by one number, and the head by another."""
    tensors = {name: START.tensors[name] + blocks for name in (A, B)}
    return Update(k, 0, samples, tensors | ({} if head is None else {"head": START.tensors["head"] + head}))


def judged(updates, bound=FIVE):
    return list(bounded(updates, lambda _: START, bound))


def test_a_length_is_per_trained_number_and_per_root_of_the_samples():
    one = {A: torch.full((1, 4), 3.0)}
    both = {A: torch.full((1, 4), 3.0), B: torch.full((4, 1), -3.0), "head": torch.tensor([1.0, 7.0])}
    assert lengths(one, START.tensors, 9) == {"blocks": 1.0}
    assert lengths(both, START.tensors, 9) == {"blocks": 1.0, "head": pytest.approx(5 / 3)}
    assert lengths({}, START.tensors, 9) == {}


def test_what_is_within_the_bound_is_the_same_object():
    updates = [moved(0, 1), moved(1, 4.9), moved(2, -1), moved(3, 19, samples=16 * 16), moved(4, 1e-9)]
    assert all(one is other for one, other in zip(judged(updates), updates, strict=True))


@pytest.mark.parametrize("odd", range(4))
def test_what_is_beyond_is_shortened_to_it_whenever_it_comes_and_does_not_turn(odd):
    found = judged([moved(k, -20.0 if k == odd else 1.0, head=1.0) for k in range(4)])
    assert [update.metrics.get(TIMES_USUAL) for update in found] == [20.0 if k == odd else None for k in range(4)]
    assert torch.allclose(found[odd].tensors[B], torch.full((4, 1), -5.0))
    assert torch.equal(found[odd].tensors["head"], torch.ones(2)), "the head is within its own bound"


def test_a_head_has_its_own_bound():
    found = judged([moved(0, 1, head=0.1), moved(1, 1, head=0.1), moved(2, 1, head=2.0)])
    assert torch.allclose(found[2].tensors["head"], torch.full((2,), 0.5))
    assert torch.equal(found[2].tensors[A], torch.ones(1, 4))


def test_a_stated_count_buys_length_up_to_the_cap_and_none_once_it_is_beyond():
    """Of 1600 samples 50 times the length would do; who takes 51 gets that of 16."""
    for samples in (1600, 2**31 - 1):
        assert judged([moved(0, 49, samples), moved(1, 1), moved(2, 1)])[0].metrics == {}
        found = judged([moved(0, 51, samples), moved(1, 1), moved(2, 1)])[0]
        assert torch.allclose(found.tensors[A], torch.full((1, 4), 5.0))
        assert found.metrics == {TIMES_USUAL: pytest.approx(5.1)}


def test_two_cannot_judge_each_other_and_neither_can_those_who_do_not_move():
    assert [u.metrics for u in judged([moved(0, 1), moved(1, 1e6)])] == [{}, {}]
    assert [u.metrics for u in judged([moved(0, 0), moved(1, 0), moved(2, 1)])] == [{}, {}, {}]


def test_half_of_the_clients_do_not_lift_it():
    found = judged([moved(0, 100), moved(1, 1), moved(2, 1), moved(3, 100)])
    assert [bool(update.metrics) for update in found] == [True, False, False, True]


def test_three_updates_are_held_however_many_come_and_rejections_keep_their_places():
    def replies():
        for k in range(6):
            taken.append(k)
            yield Rejection(k, 0, "lost") if k in (0, 2) else moved(k, 1)

    taken = []
    stream = bounded(replies(), lambda _: START, FIVE)
    seen = [(next(stream).client, len(taken)) for _ in range(6)]
    assert seen == [(0, 1), (1, 5), (2, 5), (3, 5), (4, 5), (5, 6)]


def federation(counts):
    budget = Budget(blocks=1, rank=1)
    clients = tuple(Client(k, 0, budget, n) for k, n in enumerate(counts))
    return Federation(clients, (budget,), num_blocks=1, clients_per_round=len(counts), seed=0)


def led_to(updates, counts, times):
    bound = with_bounded_norms(METHODS["full"].bind(), times, 10.0, lambda context: lambda k: context.adapter)
    state, report = algorithm.round(
        algorithm.init(START), federation(counts), bound, lambda tasks: (list(tasks), updates)[1], None
    )
    return state.adapter.tensors[A], report


def test_who_is_shortened_weighs_as_the_median_client_and_the_round_names_it():
    counts = [10, 10, 10, 80]
    updates = [moved(k, -20.0 if k == 3 else 1.0, n, head=0.0) for k, n in enumerate(counts)]
    value, report = led_to(updates, counts, 5.0)
    assert torch.allclose(value, torch.full((1, 4), (3 * 1 - 5) / 4))
    assert report.flags == (
        "client 3 moved the model 7.07 times as far as is usual; it counts as 5 times, with the weight of 10 "
        "samples, since defence.max_norm limits it",
    )
    assert report.clients[3].samples == 80, "what it stated stays on record"
    assert led_to(updates, counts, None)[1].flags == ()


def test_the_median_count_is_that_of_clients_that_stated_one():
    assert bound_of(federation([0, 10, 20, 30, 2**31 - 1]), 5.0, 10.0) == Bound(5.0, 20, 300)
    assert bound_of(replace(federation([1]), clients=()), 5.0, None) == Bound(5.0, 1, None)


def test_rounds_of_two_are_held_against_earlier_ones_as_soon_as_there_were_three_updates():
    """From the third on: the lower median of 1, 1, 1 and 1000 is 1."""
    method = with_bounded_norms(METHODS["full"].bind(), 5.0, 10.0, lambda context: lambda k: context.adapter)
    world, state = federation([16, 16]), algorithm.init(START)
    found = []
    for t, odd in enumerate([1.0, 1000.0, -1000.0, 4.0]):
        before = state.adapter.tensors[A]

        def train(tasks, odd=odd, before=state.adapter, t=t):
            for task in tasks:
                change = odd if task.client == 1 else 1.0
                yield Update(task.client, t, 16, {name: before.tensors[name] + change for name in (A, B)})

        state, report = algorithm.round(state, world, method, train, None)
        found.append((float((state.adapter.tensors[A] - before).mean()), len(report.flags)))
    assert found == [(1.0, 0), (500.5, 0), (-2.0, 1), (2.5, 0)]
    assert state.method_state["usual/blocks"].tolist() == pytest.approx([u / 4 for u in (1, 1, 1, 1000, 1, 5, 1, 4)])
    for _ in range(10):
        state, _ = algorithm.round(state, world, method, train, None)
    assert len(state.method_state["usual/blocks"]) == 15


def test_where_rounds_cannot_be_small_nothing_is_remembered():
    large = replace(federation([16] * 4), quorum=3)
    method = with_bounded_norms(METHODS["full"].bind(), 5.0, 10.0, lambda context: lambda k: context.adapter)
    updates = [moved(k, 1.0) for k in range(4)]
    for world in (large, replace(large, quorum=1, secret=True)):
        state, _ = algorithm.round(algorithm.init(START), world, method, lambda tasks: (list(tasks), updates)[1], None)
        assert state.method_state == {}
