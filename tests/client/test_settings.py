import math
from dataclasses import replace

import pytest

from fedhello.client.settings import learning_rate, rate_factor
from network import SETTINGS


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1]),
        ("cosine", [1, 0.5, 0.5 * (1 + math.cos(0.9 * math.pi))]),
        ("linear", [1, 0.5, 0.1]),
        ("exponential", [1, 0.9**5, 0.9**9]),
        ("published", [0.9, 0.9, 0.9]),
    ],
)
def test_learning_rates_of_rounds_0_5_and_9_of_10(schedule, expected):
    settings = replace(SETTINGS, rounds=10, lr=1.0, lr_schedule=schedule, lr_decay=0.9)
    assert [learning_rate(settings, t) for t in (0, 5, 9)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_falling_rates_never_vanish(schedule):
    settings = replace(SETTINGS, rounds=5000, lr=1.0, lr_schedule=schedule)
    assert min(learning_rate(settings, t) for t in range(5000)) == 1e-3


@pytest.mark.parametrize(("block", "factor"), [(None, 3.0), (2, 1.0), (1, 0.5), (0, 0.25)])
def test_rates_fall_from_the_output_down(block, factor):
    assert rate_factor(block, 3, 3.0, 0.5) == factor
