"""Case 15: an update a million times too large, and one that is next to nothing."""

import pytest

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.types import Update

FULL = METHODS["full"].bind()


def play(toy, defence, *factors):
    """One round in which client k moves everything by factor k; return the record and how far the adapter moved."""
    world, adapter = toy(clients=len(factors))

    def train(tasks):
        for task in tasks:
            values = {n: v + factors[task.client] for n, v in task.adapter.tensors.items()}
            yield Update(task.client, task.round, 10, values)

    state, record = round(init(adapter), world, defended(FULL, defence), train, None)
    change = [(state.adapter.tensors[n] - v).square().sum() for n, v in adapter.tensors.items()]
    return record, float(sum(change)) ** 0.5


UNBOUNDED = Defence(max_norm=None)


def test_without_a_defence_it_does_what_it_likes(toy):
    assert play(toy, UNBOUNDED, 1, 1, 1, 1e6)[1] > 1e5
    assert play(toy, Defence(), 1, 1e6)[1] > 1e5, "of two nobody can say which is odd"


@pytest.mark.parametrize("hostile", range(4))
def test_by_default_it_moves_the_model_by_five_times_its_share(toy, hostile):
    record, moved = play(toy, Defence(), *(1e6 if k == hostile else 1 for k in range(4)))
    assert moved == pytest.approx(2.0 * (3 + 5) / 4)
    assert f"client {hostile} moved the model 1e+06 times as far as is usual" in record.flags[0]


def test_a_clip_bounds_it_by_its_share(toy):
    honest = 2.0  # the norm of four numbers moved by 1
    record, moved = play(toy, Defence(clip=honest), 1, 1, 1, 1e6)
    assert not record.rejections
    assert moved <= honest * (1 + 1e-6)
    assert record.clients[3].metrics["update_norm"] > 1e6


def test_a_screen_rejects_it_and_the_round_is_that_of_the_others(toy):
    record, moved = play(toy, Defence(screen=5.0), 1, 1, 1, 1e6)
    assert [(r.client, r.reason) for r in record.rejections] == [(3, "out of bounds")]
    assert moved == play(toy, Defence(), 1, 1, 1)[1]


def test_next_to_nothing_is_taken(toy):
    record, _ = play(toy, Defence(screen=5.0, clip=2.0), 1, 1, 1, 1e-12)
    assert not record.rejections
