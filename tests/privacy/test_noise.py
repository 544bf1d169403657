import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedhello.privacy.noise import factor, gaussian
from fedhello.randomness import generator


def test_noise_is_gaussian_of_the_stated_deviation_and_independent():
    drawn = gaussian((200, 500), 3.0)
    assert drawn.dtype == torch.float64
    assert kstest(drawn.flatten().numpy() / 3.0, "norm").pvalue > 1e-4
    rows = np.corrcoef(drawn.numpy())
    assert np.abs(rows[~np.eye(200, dtype=bool)]).max() < 6 / 500**0.5


def test_no_seed_brings_noise_back():
    def seeded():
        torch.manual_seed(0)
        np.random.seed(0)
        generator(0, "noise")
        return gaussian((10,), 1.0)

    assert not torch.equal(seeded(), seeded())


@pytest.mark.parametrize(
    ("length", "expected"), [(0.0, 1.0), (2.0, 1.0), (4.0, 0.5), (float("inf"), 0.0), (float("nan"), 0.0)]
)
def test_a_contribution_is_shortened_to_the_most_and_dropped_if_not_finite(length, expected):
    assert factor(length, 2.0) == expected
