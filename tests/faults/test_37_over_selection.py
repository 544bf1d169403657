"""Case 37: more are invited than needed; the first to come count, the others are late and leave no trace."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from fedhello import algorithm
from fedhello.engine.local import LocalEngine
from fedhello.methods import METHODS
from fedhello.strategy import AllocationContext


@pytest.fixture
def engine(tiny_model, random_examples, federation, local_settings):
    def build(dropout=0.0, over_selection=1.3, clients=12):
        world = federation([1] * clients, blocks=2, clients_per_round=4)
        world = replace(world, over_selection=over_selection, quorum=1)
        data = random_examples(samples=4)
        everyone = dict.fromkeys(range(clients), data)
        settings = replace(local_settings, epochs=1)
        return LocalEngine(tiny_model(blocks=2), world, everyone, settings, dropout=dropout)

    return build


def play(e, rounds=3, heads=None):
    state, records = algorithm.init(e.model.snapshot(share_head=heads is None)), []
    for _ in range(rounds):
        train = partial(e.train, heads=heads)
        state, record = algorithm.round(state, e.federation, METHODS["full"].bind(), train, None)
        records.append(record)
    return state, records


def test_six_are_invited_four_count_and_two_are_late(engine):
    for record in play(engine())[1]:
        assert len(record.clients) == 4
        assert [r.reason for r in record.rejections] == ["late"] * 2
        assert all(r.bytes_down > 0 and r.bytes_up == 0 for r in record.rejections)
        invited = sorted(reply.client for reply in (*record.clients, *record.rejections))
        assert invited == [k.id for k in algorithm.sample_clients(engine().federation, record.round)]


def test_the_late_make_up_for_the_lost(engine):
    for record in play(engine(dropout=0.3, over_selection=2.0), rounds=6)[1]:
        arrived = 8 - sum(r.reason == "lost" for r in record.rejections)
        assert len(record.clients) == min(4, arrived)
        assert len(record.clients) + len(record.rejections) == 8


def test_who_was_late_leaves_nothing_in_the_model_and_keeps_its_head(engine):
    e = engine()
    _, (record,) = play(e, rounds=1, heads={})
    assert e.trained_heads(record).keys() == {report.client for report in record.clients}
    (state, _), (again, _) = play(engine()), play(engine())
    assert all(torch.equal(value, again.adapter.tensors[n]) for n, value in state.adapter.tensors.items())


def test_nobody_is_late_more_often_than_others(engine):
    e = engine()
    counts, rounds = [0] * 12, 300
    adapter = e.model.snapshot(share_head=True)
    method = METHODS["full"].bind()
    e._reply = lambda task, client, heads: counts.__setitem__(client.id, counts[client.id] + 1)
    for t in range(rounds):
        invited = algorithm.sample_clients(e.federation, t)
        contexts = [AllocationContext(k, e.federation, t) for k in invited]
        list(e.train(method.send(adapter, method.allocate(s), s) for s in contexts))
    assert sum(counts) == 4 * rounds
    assert all(abs(count - rounds / 3) < 40 for count in counts)  # 100, five standard deviations of 8.2


@pytest.mark.parametrize(("share", "invited"), [(1.0, 4), (1.25, 5), (1.3, 6), (2.0, 8), (100.0, 12)])
def test_how_many_are_invited(engine, share, invited):
    assert engine(over_selection=share).federation.invited == invited
