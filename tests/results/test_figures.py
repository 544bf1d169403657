import pytest
from comparisons import compared, method

from fedhello.results.compared import ComparedTier, CostToTarget
from fedhello.results.statistics import Spread
from fedhello.types import Budget


def test_means_and_deviations_are_over_seeds(two_methods):
    found = method(compared(two_methods), "gd-hla")
    assert found.seeds == (0, 1)
    assert found.mean_last_5 == Spread(2, pytest.approx(0.75), pytest.approx(0.3 / 2**0.5))
    assert found.final.mean == pytest.approx(0.75)
    assert found.bytes_up == 200 + 6 * 500


def test_a_target_reached_before_training_costs_what_was_sent_before(two_methods):
    assert compared(two_methods, target=0.5).runs[0].to_target == CostToTarget(0, 200, 0, 0)


def test_a_peak_is_the_largest_of_all_seeds(two_methods):
    tiers = method(compared(two_methods), "gd-hla").tiers
    assert tiers == (ComparedTier(Budget(blocks=1), 3e6), ComparedTier(Budget(blocks=6), 5e6))
