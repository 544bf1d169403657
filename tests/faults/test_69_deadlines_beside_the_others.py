"""Case 69: a client that states no speed, or hardly any, does not hold a round for hours."""

from dataclasses import replace

import pytest

from fedhello.network.deadlines import DeadlinePolicy
from fedhello.network.registry import SLOWEST_TRAINING
from fedhello.types import Rejection
from network import remote_tasks

PACE = DeadlinePolicy()


def test_what_a_client_states_alone_would_hold_a_round_for_hours():
    assert PACE.seconds(50_000, 16_000.0, 1e12, None) == pytest.approx(10_839, abs=1)
    assert PACE.seconds(50_000, 16_000.0, 1e13, SLOWEST_TRAINING) == PACE.most == 86_400


@pytest.mark.parametrize("speed", [None, SLOWEST_TRAINING])
def test_a_silent_client_is_waited_for_as_long_as_the_others_allow(remote_world, speed):
    """Three hours before; now 10 · (30 + 3 · 0) s, since the others answer at once."""
    network, engine, local = remote_world(pace=PACE)
    engine.members = [*engine.members[:2], engine.members[2].model_copy(update={"speed": speed})]
    network.faults["client-2", "train"] = ["silent"]
    begin = network.now
    replies = list(engine.train(remote_tasks(local)))
    assert [isinstance(reply, Rejection) for reply in replies] == [False, False, True]
    assert engine.seconds(remote_tasks(local)[2], 0) > 10_000
    assert network.now - begin == pytest.approx(300, abs=1)
    assert replies[2].reason == "late"
    assert "far longer than the others take" in replies[2].detail


def test_an_honest_client_thirty_times_slower_than_the_others_is_waited_for(remote_world):
    network, engine, local = remote_world(pace=PACE)
    times = {0: 20.0, 1: 20.0, 2: 30 * 20.0}
    network.delay = lambda fields: times[fields["client"]]
    for k in times:
        network.faults[f"client-{k}", "train"] = ["slow"]
    replies = list(engine.train(remote_tasks(local)))
    assert not any(isinstance(reply, Rejection) for reply in replies)
    assert network.now >= 600


def test_less_than_half_of_the_others_move_nothing():
    honest = [10.0, 11.0, 12.0]
    usual = PACE.among(honest, others=5)
    assert usual == 10 * (30 + 3 * 12.0)
    for liars in ([], [0.0], [0.0, 0.0]):  # those who answer at once cannot have the slow ones cut below five minutes
        assert PACE.among([*liars, *honest], others=5) >= 300
    assert PACE.among([10.0, 11.0], others=5) == float("inf")


def test_of_two_clients_neither_is_measured_by_the_other(remote_world):
    assert PACE.among([1.0], others=1) == float("inf")
    assert PACE.among([1.0, 2.0], others=2) == 360.0


def test_errors_are_no_answers(remote_world):
    """Clients that refuse at once do not shorten the deadline of one that trains."""
    network, engine, local = remote_world(pace=replace(PACE, relative=0.01))
    for k in (0, 1):
        network.faults[f"client-{k}", "train"] = [lambda reply: {"error": "failed", "detail": "no"}]
    network.faults["client-2", "train"] = ["slow"]
    network.delay = 60.0
    assert not isinstance(list(engine.train(remote_tasks(local)))[2], Rejection)
