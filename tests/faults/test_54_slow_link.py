"""Case 54: 50 MB over a link of 1 MB/s: deadlines follow bytes and rates, none is fixed."""

from dataclasses import replace

import pytest

from fedhello.network.engine import DeadlinePolicy
from fedhello.network.messages import PROBE
from fedhello.network.registry import Arrival
from fedhello.types import Update
from network import remote_tasks

MEGABYTE = 10**6


@pytest.mark.parametrize(
    ("size", "rate"), [(50 * MEGABYTE, MEGABYTE), (50 * MEGABYTE, MEGABYTE // 10), (1000, MEGABYTE)]
)
def test_the_deadline_leaves_room_for_the_transfer_at_the_measured_rate(size, rate):
    transfer = size / rate
    found = DeadlinePolicy().seconds(size, rate, 0.0, 1.0)
    assert found >= 3 * transfer
    assert found <= 3 * transfer + 30


def test_a_slow_client_is_waited_for_and_a_fast_one_not_as_long(remote_world):
    _network, engine, local = remote_world()
    task = remote_tasks(local)[1]
    engine.rates |= {1: float(MEGABYTE)}
    slow = engine.seconds(task, 50 * MEGABYTE)
    engine.rates |= {1: 100.0 * MEGABYTE}
    assert slow > 100 > engine.seconds(task, 50 * MEGABYTE)


def test_an_update_that_takes_most_of_its_deadline_counts(remote_world):
    network, engine, local = remote_world()
    engine.rates = dict.fromkeys(range(3), 500.0)  # bytes per second: what a few kB need minutes for
    asked = remote_tasks(local)
    network.delay = lambda fields: 0.9 * fields["seconds"]
    network.faults["client-1", "train"] = ["slow"]
    replies = list(engine.train(asked))
    assert all(isinstance(reply, Update) for reply in replies)
    assert network.now > 30


def test_the_rate_is_estimated_by_a_probe_when_a_client_joins(remote_world):
    _, engine, _ = remote_world()
    facts = engine.members[0]
    busy = facts.model_copy(update={"busy": 60.0})  # it loaded a model meanwhile
    arrival = Arrival(1, busy, 61.0)
    assert arrival.rate == pytest.approx(2 * len(PROBE))
    assert replace(arrival, facts=facts).rate < arrival.rate
