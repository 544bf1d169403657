import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.results import statistics
from fedhello.results.statistics import ROUNDING, default_target, first_at_least, holm, paired_differences, spread


def by_seed(*values):
    return dict(enumerate(values))


def alone(method, reference):
    """One method against a reference, where nothing is to be adjusted."""
    return paired_differences({"method": method}, reference)["method"]


def test_mean_and_sample_deviation_by_hand():
    found = spread([0.7, 0.8, 0.9])
    assert (found.n, found.mean) == (3, pytest.approx(0.8))
    assert found.deviation == pytest.approx(0.1)  # √((0.01 + 0 + 0.01) / 2), not / 3


def test_missing_values_are_left_out_and_counted():
    assert spread([None, 2, None]) == statistics.Spread(1, 2.0, None)
    assert spread([None]) == statistics.Spread(0, None, None)


def test_the_interval_by_hand():
    # Differences 0.01, 0.03, 0.05: mean 0.03, s = 0.02, t(2 degrees, 0.975) = 4.302653.
    found = alone(by_seed(0.51, 0.63, 0.75), by_seed(0.5, 0.6, 0.7))
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
    found = alone(by_seed(*method), by_seed(*reference))
    test = scipy.stats.ttest_rel(method, reference)
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (found.p, found.p_adjusted) == (pytest.approx(test.pvalue), found.p)
    told_apart = found.verdict in ("better", "worse")
    assert told_apart == (not found.low <= 0 <= found.high)
    if abs(test.pvalue - 0.05) > 1e-6:
        assert told_apart == (test.pvalue < 0.05)


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "better"), (-0.1, "worse"), (0.001, "not told apart by 4 seeds")])
def test_the_verdict_in_words(shift, verdict):
    reference = by_seed(0.5, 0.52, 0.54, 0.56)
    noise = (0.004, -0.003, 0.002, -0.001)
    method = {seed: value + shift + noise[seed] for seed, value in reference.items()}
    assert alone(method, reference).verdict == verdict


def test_differences_are_paired_by_seed_not_by_place():
    found = alone({2: 0.9, 0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.59, 2: 0.81})
    assert found.mean == pytest.approx(0.1)
    assert found.verdict == "better"


def test_only_seeds_that_both_have_count():
    found = alone({0: 0.9, 5: 0.1}, {0: 0.5, 7: 0.9})
    assert (found.n, found.mean, found.low, found.high) == (1, pytest.approx(0.4), None, None)
    assert found.verdict == "one seed carries no comparison"
    assert alone({0: 0.9}, {1: 0.9}).verdict == "no seed in common"


def test_equal_methods_are_not_told_apart():
    found = alone(by_seed(0.5, 0.6), by_seed(0.5, 0.6))
    assert (found.low, found.high, found.p, found.verdict) == (0, 0, 1, "not told apart by 2 seeds")


def test_no_certainty_from_seeds_that_happen_to_agree():
    found = alone(by_seed(0.85, 0.75), by_seed(0.8, 0.7))
    assert (found.low, found.high) == (None, None)
    assert found.verdict == "the same difference in all 2 seeds"


# several methods


def shifted(t, n=5, noise=(-2.0, -1.0, 0.0, 1.0, 2.0)):
    """A reference and a method whose differences have a given t statistic: s = √2.5, so the mean is t·√(2.5/n)."""
    return by_seed(*(noise[seed] + t * math.sqrt(2.5 / n) for seed in range(n)))


ZERO = by_seed(0, 0, 0, 0, 0)


def test_holms_adjustment_by_hand():
    # 4·0.005, then 3·0.01 = 0.03, then 2·0.03 = 0.06; 1·0.04 may not be less than that.
    assert holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02], 5) == pytest.approx([0.05, 0.08])  # three without a p-value
    assert holm([0.6, 0.7], 2) == [1.0, 1.0]
    assert holm([], 0) == []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6), level=st.floats(0.001, 0.5))
def test_holms_adjustment_is_his_step_down(p, level):
    """Reject the smallest at α/m, the next at α/(m − 1), …, and stop at the first that is not."""
    adjusted, m = holm(p, len(p)), len(p)
    rejected = set()
    for step, i in enumerate(sorted(range(m), key=lambda i: p[i])):
        if abs(adjusted[i] - level) < 1e-9:
            return  # a tie with the level is decided by rounding
        if p[i] * (m - step) > level:
            break
        rejected.add(i)
    assert {i for i in range(m) if adjusted[i] <= level} == rejected


def test_what_is_told_apart_alone_may_not_be_among_others():
    """t = 3 with 4 degrees of freedom is p = 0.04 alone, and 0.04·3 beside two that do not differ."""
    clear = shifted(3.0)
    assert alone(clear, ZERO).verdict == "better"
    among = paired_differences({"a": shifted(0.1), "b": clear, "c": shifted(-0.2)}, ZERO)
    assert among["b"].p == pytest.approx(2 * scipy.stats.t.sf(3.0, 4))
    assert among["b"].p_adjusted == pytest.approx(3 * among["b"].p)
    assert [one.verdict for one in among.values()] == ["not told apart by 5 seeds"] * 3


def test_holm_finds_more_than_bonferroni_and_intervals_say_so():
    """Two are told apart at 0.05/2 and 0.05/1; Bonferroni's interval of the second, at 0.05/2, holds 0."""
    found = paired_differences({"far": shifted(-9.0), "near": shifted(3.0)}, ZERO)
    assert [found[k].verdict for k in ("far", "near")] == ["worse", "better"]
    assert found["near"].low < 0 < found["near"].high
    test = scipy.stats.ttest_1samp(list(shifted(3.0).values()), 0)
    expected = test.confidence_interval(1 - 0.05 / 2)
    assert (found["near"].low, found["near"].high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_methods_without_two_common_seeds_are_no_comparison():
    """One seed can never tell a method apart, so it costs the others nothing; seeds that agree count."""
    one = paired_differences({"a": shifted(3.0), "b": {0: 1.0}, "c": {9: 1.0}}, ZERO)
    assert one["a"].p_adjusted == one["a"].p
    agreeing = paired_differences({"a": shifted(3.0), "b": by_seed(1, 1, 1, 1, 1)}, ZERO)
    assert agreeing["a"].p_adjusted == pytest.approx(2 * agreeing["a"].p)
    assert (agreeing["b"].p, agreeing["b"].verdict) == (None, "the same difference in all 5 seeds")


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_target_is_above_the_start_and_no_more_than_the_best(best, start):
    target, rule = default_target(best, start)
    if best <= start + ROUNDING:
        assert (target, rule) == (None, "none")
    else:
        assert start < target <= best
        assert rule == ("share" if 0.98 * best > start else "halfway")


def test_the_target_is_98_percent_of_the_best_or_halfway_to_it():
    assert default_target(0.65, start=0.5) == (pytest.approx(0.637), "share")
    assert default_target(0.81, start=0.80) == (pytest.approx(0.805), "halfway")  # 98 % would be 0.7938


def test_the_first_round_that_reaches_the_target_counts():
    assert first_at_least([0.1, 0.5, 0.4, 0.6], 0.5) == 1
    assert first_at_least([0.1, 0.5], 0.51) is None
