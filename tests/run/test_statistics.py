import doctest
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.run import statistics
from fedhello.run.statistics import (
    chance_words,
    default_target,
    first_at_least,
    paired_difference,
    spread,
)


def by_seed(*values):
    return dict(enumerate(values))


def test_the_examples_hold():
    outcome = doctest.testmod(statistics)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_mean_and_sample_deviation_by_hand():
    found = spread([0.7, 0.8, 0.9])
    assert (found.n, found.mean) == (3, pytest.approx(0.8))
    assert found.deviation == pytest.approx(0.1)  # √((0.01 + 0 + 0.01) / 2), not / 3


def test_missing_values_are_left_out_and_counted():
    assert spread([None, 2, None]) == statistics.Spread(1, 2.0, None)
    assert spread([None]) == statistics.Spread(0, None, None)


def test_the_interval_by_hand():
    # Differences 0.01, 0.03, 0.05: mean 0.03, s = 0.02, t(2 degrees, 0.975) = 4.302653.
    found = paired_difference(by_seed(0.51, 0.63, 0.75), by_seed(0.5, 0.6, 0.7))
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert (found.n, found.mean) == (3, pytest.approx(0.03))
    assert (found.low, found.high) == (pytest.approx(0.03 - half, abs=1e-7), pytest.approx(0.03 + half, abs=1e-7))
    assert found.verdict == "not told apart by 3 seeds"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_the_interval_is_scipys_of_a_paired_t_test(values):
    method, reference = np.array(values).T
    if np.std(method - reference) < 1e-6:
        return
    found = paired_difference(by_seed(*method), by_seed(*reference))
    test = scipy.stats.ttest_rel(method, reference)
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    told_apart = found.verdict in ("better", "worse")
    assert told_apart == (not found.low <= 0 <= found.high)
    if abs(test.pvalue - 0.05) > 1e-6:
        assert told_apart == (test.pvalue < 0.05)


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "better"), (-0.1, "worse"), (0.001, "not told apart by 4 seeds")])
def test_the_verdict_in_words(shift, verdict):
    reference = by_seed(0.5, 0.52, 0.54, 0.56)
    noise = (0.004, -0.003, 0.002, -0.001)
    method = {seed: value + shift + noise[seed] for seed, value in reference.items()}
    assert paired_difference(method, reference).verdict == verdict


def test_differences_are_paired_by_seed_not_by_place():
    found = paired_difference({2: 0.9, 0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.59, 2: 0.81})
    assert found.mean == pytest.approx(0.1)
    assert found.verdict == "better"


def test_only_seeds_that_both_have_count():
    found = paired_difference({0: 0.9, 5: 0.1}, {0: 0.5, 7: 0.9})
    assert (found.n, found.mean, found.low, found.high) == (1, pytest.approx(0.4), None, None)
    assert found.verdict == "one seed carries no comparison"
    assert paired_difference({0: 0.9}, {1: 0.9}).verdict == "no seed in common"


def test_equal_methods_are_not_told_apart():
    found = paired_difference(by_seed(0.5, 0.6), by_seed(0.5, 0.6))
    assert (found.low, found.high, found.verdict) == (0, 0, "not told apart by 2 seeds")


def test_no_certainty_from_seeds_that_happen_to_agree():
    found = paired_difference(by_seed(0.85, 0.75), by_seed(0.8, 0.7))
    assert (found.low, found.high) == (None, None)
    assert found.verdict == "the same difference in all 2 seeds"


def test_one_comparison_is_no_search():
    assert chance_words(0) == chance_words(1) == ""
    assert "as high as 40 %" in chance_words(10)  # 1 − 0.95¹⁰ = 0.401


def test_the_target_follows_the_best_mean():
    assert default_target({"a": [0.5, 0.7], "b": [0.9, 0.4]}) == pytest.approx(0.98 * 0.65)


def test_the_first_round_that_reaches_the_target_counts():
    assert first_at_least([0.1, 0.5, 0.4, 0.6], 0.5) == 1
    assert first_at_least([0.1, 0.5], 0.51) is None
