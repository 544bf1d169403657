"""How often a SuperNode looks for messages."""

import inspect
import re

import pytest

pytest.importorskip("flwr", reason="needs the extra flower")

from fedhello.network.flower_pace import Pace


def pauses(*asked):
    """Return how long a SuperNode waits where Flower waits some seconds, which pass."""
    now, waited = 0.0, []

    def sleep(seconds):
        nonlocal now
        now += seconds
        waited.append(seconds)

    pace = Pace(lambda: now, sleep)
    for seconds in asked:
        pace.sleep(seconds)
    return waited


def test_a_message_waits_a_tenth_of_the_time_that_a_client_waited_for_it_and_no_longer_than_with_flower():
    looks = pauses(*[3] * 60)
    assert looks[0] == 0.2 and max(looks) == 3
    for i, pause in enumerate(looks):
        assert pause == pytest.approx(min(3, max(0.2, sum(looks[:i]) / 10)))
    again = pauses(*[3] * 60, 0.5, 3)
    assert again[-2:] == [0.05, 0.2], "a reply of its own worker is waited for, and then the next message"


def test_flower_waits_where_the_pace_expects_it():
    from flwr.supernode import start_client_internal

    source = inspect.getsource(start_client_internal)
    assert set(re.findall(r"time\.(\w+)", source)) == {"sleep"}
    assert re.findall(r"sleep\(([\d.]+)\)", source) == ["3", "0.5", "0.5"]
