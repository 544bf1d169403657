"""Laws of banded noise, against the matrices that it stands for."""

import math

import pytest
import torch
from scipy.stats import kstest

from fedhello.privacy.banded import coefficients, next_noise, remembered, summed_noise
from fedhello.privacy.rounds import EARLIER, round_noise

T = 12


def strategy(band, rounds=T):
    """C, with columns of length 1 but for those that end after the last round."""
    c = coefficients(band) / coefficients(band).norm()
    return sum(torch.diag(torch.full((rounds - j,), float(c[j]), dtype=torch.float64), -j) for j in range(band))


@pytest.mark.parametrize("band", [1, 2, 3, 5, 12])
def test_noise_is_that_of_the_inverse_of_the_strategy_matrix(band):
    w = torch.eye(T, dtype=torch.float64)
    earlier, z = torch.zeros(band - 1, T, dtype=torch.float64), []
    for t in range(T):
        z.append(next_noise(w[t], earlier))
        earlier = remembered(z[-1], earlier)
    assert torch.allclose(torch.stack(z), torch.linalg.inv(strategy(band)), atol=1e-12)


@pytest.mark.parametrize("band", [2, 3, 5])
def test_what_a_client_changes_in_its_turns_adds_up_like_releases_of_their_own(band):
    """With C the columns of one client's rounds are orthogonal and of length 1 at most: b rounds cost one release."""
    for first in range(band):
        columns = strategy(band)[:, first::band]
        gram = columns.T @ columns
        assert torch.allclose(gram - torch.diag(gram.diag()), torch.zeros_like(gram), atol=1e-12)
        assert float(gram.diag().max()) == pytest.approx(1) and float(gram.diag().min()) <= 1 + 1e-12


@pytest.mark.parametrize(("band", "rounds"), [(1, 5), (2, 20), (4, 20), (20, 100), (50, 20)])
def test_noise_on_the_sum_of_rounds_is_that_of_the_last_row_of_the_prefix_sums(band, rounds):
    C = strategy(min(band, rounds), rounds)
    c, cut = coefficients(band).norm(), coefficients(min(band, rounds)).norm()
    last = torch.ones(rounds, dtype=torch.float64) @ torch.linalg.inv(C)
    assert summed_noise(band, rounds) == pytest.approx(float(last.norm() * c / cut) / math.sqrt(rounds), abs=1e-12)


def test_it_takes_less_noise_than_independent_rounds_and_about_what_an_optimiser_finds():
    """The last figures are those of optimize_banded_toeplitz of jax-privacy 2.0 for the mean over all prefixes."""
    for band, rounds, best in (
        (2, 20, 0.7508),
        (4, 20, 0.5977),
        (10, 20, 0.4944),
        (20, 100, 0.3183),
        (50, 100, 0.2734),
    ):
        assert 0.98 < summed_noise(band, rounds) / best < 1.04


def test_noise_goes_on_through_rounds_in_which_a_tensor_is_not_released():
    """Taken back with the strategy's coefficients, what a tensor got is independent standard noise."""
    state, seen = {}, []
    for t in range(6):
        released = {"a": (4000,)} if t != 2 else {"b": (4000,)}
        noise, state = round_noise(released, state, band=3)
        assert set(state) == {EARLIER + name for name in noise}
        seen.append(noise["a"])
    w = strategy(3, 6) @ torch.stack(seen)
    assert all(kstest(one.numpy(), "norm").pvalue > 1e-4 for one in w)
    covariance = w @ w.T / w.shape[1]
    assert torch.allclose(covariance, torch.eye(6, dtype=torch.float64), atol=0.08)


def test_without_a_band_nothing_is_remembered():
    noise, state = round_noise({"a": (3, 2)}, {}, band=1)
    assert noise["a"].shape == (3, 2) and state == {}
