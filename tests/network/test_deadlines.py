"""What a deadline is made of; how rounds go by it: ``tests/faults/test_69_deadlines_beside_the_others.py``."""

import pytest

from fedhello.network.deadlines import DeadlinePolicy


@pytest.mark.parametrize(("others", "needed"), [(2, 2), (3, 2), (4, 3), (9, 5)])
def test_more_than_half_of_the_others_have_to_answer(others, needed):
    pace = DeadlinePolicy(floor=1.0, factor=2.0, relative=10.0)
    times = [float(t) for t in range(others)]
    assert pace.among(times[: needed - 1], others) == float("inf")
    assert pace.among(times[:needed], others) == 10 * (1 + 2 * (needed - 1))
