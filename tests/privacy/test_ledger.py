"""Laws of the ledger: published points, monotonicity, shares, files."""

import pytest

from fedhello.errors import PrivacyError
from fedhello.privacy.ledger import Ledger, Planned, calibrated, epsilon_of, read_ledger, write_ledger
from fedhello.state import Release

accounting = pytest.importorskip("dp_accounting")
DELTA = 1e-5


def rounds(noise=1.0, rate=0.01, times=1000):
    return epsilon_of([Release("rounds", noise, rate, times)], DELTA)


def rdp(noise, rate, times):
    accountant = accounting.rdp.RdpAccountant()
    accountant.compose(accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise)), times)
    return accountant.get_epsilon(DELTA)


def test_reference_points_of_the_sampled_gaussian():
    assert rdp(1.0, 0.01, 1000) == pytest.approx(2.101, abs=5e-4)
    assert rounds() == pytest.approx(1.828, abs=2e-3)
    assert rounds() >= 1.8282  # the finer discretisation


@pytest.mark.parametrize(("epsilon", "noise"), [(8, 0.6003), (4, 1.0812), (1, 3.7307)])
def test_reference_points_of_one_gaussian(epsilon, noise):
    """The package's calibration by privacy loss distributions gives the same noise as the closed form."""
    assert epsilon_of([Release("head", noise)], DELTA) == pytest.approx(epsilon, rel=1e-3)
    accountant = accounting.pld.PLDAccountant()
    accountant.compose(accounting.GaussianDpEvent(noise))
    assert epsilon_of([Release("head", noise)], DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-3)


@pytest.mark.parametrize(("noise", "rate", "times"), [(0.8, 0.02, 100), (1.0, 0.05, 50), (2.0, 0.25, 20)])
def test_loss_distributions_are_no_looser_than_renyi(noise, rate, times):
    assert rounds(noise, rate, times) <= rdp(noise, rate, times)


def test_epsilon_rises_with_rounds_and_rate_and_falls_with_noise():
    assert rounds(times=100) < rounds(times=300) < rounds()
    assert rounds(rate=0.005, times=100) < rounds(rate=0.01, times=100) < rounds(rate=1.0, times=100)
    assert rounds(noise=2.0, times=100) < rounds(noise=1.0, times=100)


def test_releases_compose_in_any_order_and_grouping():
    head, two = Release("head", 3.0), Release("rounds", 1.0, 0.05, 2)
    one = Release("rounds", 1.0, 0.05)
    assert epsilon_of([head, two], DELTA) == epsilon_of([one, head, one], DELTA)
    # Two Gaussians without sampling are one of noise σ/√2.
    assert epsilon_of([head, head], DELTA) == pytest.approx(epsilon_of([Release("", 3 / 2**0.5)], DELTA))


def test_nothing_is_free_and_no_noise_is_infinite():
    assert Ledger(1.0, DELTA).epsilon == 0
    assert epsilon_of([Release("head", 0.0)], DELTA) == float("inf")


def test_shares_of_the_budget_are_met_and_never_exceeded():
    head, training = calibrated([Planned("head", 0.5), Planned("rounds", 0.5, 0.1, 20)], 4.0, DELTA)
    assert 0.995 * 2 <= epsilon_of([head], DELTA) <= 2
    assert 0.99 * 4 <= epsilon_of([head, training], DELTA) <= 4
    with pytest.raises(PrivacyError, match="sum to 1"):
        calibrated([Planned("head", 0.5)], 4.0, DELTA)


def test_a_release_beyond_the_budget_is_refused():
    ledger = Ledger(8.0, DELTA).spent(Release("head", 0.61))
    with pytest.raises(PrivacyError, match=r"cover head; found that ε would be 12 at δ=1e-05, after 7\.8"):
        ledger.spent(Release("head", 0.61))


def test_a_ledger_survives_its_file():
    ledger = Ledger(8.0, DELTA, (Release("head", 0.61), Release("rounds", 4.0, 0.1, 3)))
    values = write_ledger(ledger)
    assert read_ledger(values) == ledger
    assert values["epsilon"] == ledger.epsilon
    with pytest.raises(PrivacyError, match="format 1 or earlier; found 2"):
        read_ledger(values | {"format": 2})


@pytest.mark.parametrize(
    ("unit", "said"), [("client", "all data of any one client"), ("sample", "any one sample of a client")]
)
def test_the_guarantee_says_what_is_compared(unit, said):
    """Zeros take the place of what is protected; nobody is gone."""
    found = Ledger(8.0, DELTA, (Release("head", 0.7),), unit=unit).words()
    assert f"with {said} counted as nothing, results are almost as likely" in found


def test_releases_of_one_client_each_count_in_parallel_and_with_what_is_of_all():
    """As the package's own figure for the client with most steps."""
    head = Release("head", 1.5)
    steps = [Release("steps", 1.2, 0.3, times, client=k) for k, times in ((4, 20), (7, 50), (9, 50))]
    accountant = accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(accounting.GaussianDpEvent(1.5))
    accountant.compose(accounting.PoissonSampledDpEvent(0.3, accounting.GaussianDpEvent(1.2)), 50)
    assert epsilon_of([head, *steps], DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)
    assert epsilon_of(steps[:1], DELTA) < epsilon_of([head, *steps[:1]], DELTA) < epsilon_of([head, *steps], DELTA)


def test_a_planned_number_of_steps_is_for_each_client():
    planned = (Release("head", 2.0), Release("steps", 2.0, 0.3, times=4))
    ledger = Ledger(1.0, DELTA, planned=planned).spent(planned[0])
    for client in (0, 1, 0, 1):
        ledger = ledger.spent(Release("steps", 2.0, 0.3, times=2, client=client))
    assert [(one.client, one.times) for one in ledger.releases] == [(None, 1), (0, 4), (1, 4)]
    with pytest.raises(PrivacyError, match="to cover steps"):
        ledger.spent(Release("steps", 2.0, 0.3, times=200, client=0))
    assert read_ledger(write_ledger(ledger)).releases == ledger.releases
    assert "how many samples each client has is taken as known" in ledger.words()
    assert "taken as known" not in Ledger(8.0, DELTA, planned[:1]).words()
