"""The head that follows features which training moves."""

import math

import pytest
import torch

from fedhello.model.drift import estimated_drift, followed
from fedhello.model.head import class_means, family, within_covariance
from fedhello.model.statistics import Moments, StatisticsSettings, add_up, head_sums

C, D = 3, 8
KINDS = [Moments(), Moments("diagonal"), Moments("means"), Moments("sketch", size=5, seed=3)]


def features(n, seed):
    """Gaussians around class means, in units of x = h/√d."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % C
    centres = 0.3 * torch.randn(C, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return centres[y] + 0.1 * torch.randn(n, D, generator=generator, dtype=torch.float64), y


def sums_of(x, y, moments, clients=4):
    owner = torch.arange(len(y)) * clients // len(y)
    how = StatisticsSettings(moments)
    parts = [head_sums((x * math.sqrt(D)).float()[owner == k], y[owner == k], C, how) for k in range(clients)]
    return add_up(parts, moments)


def moved_by(x, seed=5):
    """An affine map, as a whole network might do for small steps."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.eye(D, dtype=torch.float64) + 0.4 * torch.randn(D, D, generator=generator, dtype=torch.float64)
    return x @ A + 0.2 * torch.randn(D, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("moments", KINDS, ids=lambda moments: moments.kind)
def test_where_nothing_drifts_the_sums_stay(moments):
    (x, _), (own, y) = features(60, 0), features(240, 1)
    sums = sums_of(own, y, moments)
    found = followed(sums, moments, estimated_drift(x, x))
    assert torch.allclose(class_means(found), class_means(sums))
    assert torch.allclose(within_covariance(found, moments), within_covariance(sums, moments), atol=1e-9)


@pytest.mark.parametrize("solver", ["lda", "ridge"])
def test_after_an_affine_drift_the_head_is_the_one_of_the_features_as_they_are(solver):
    """Seen on the server's samples alone; the clients' are others."""
    (x, _), (own, y) = features(400, 0), features(240, 1)
    sums, now = sums_of(own, y, Moments()), sums_of(moved_by(own), y, Moments())
    found = followed(sums, Moments(), estimated_drift(x, moved_by(x)))
    W, b = family(found, Moments(), solver).at(1e-3)
    exact_W, exact_b = family(now, Moments(), solver).at(1e-3)
    stale_W, _ = family(sums, Moments(), solver).at(1e-3)
    assert torch.allclose(W, exact_W, rtol=0.02, atol=0.02 * float(exact_W.abs().max()))
    assert torch.allclose(b, exact_b, rtol=0.02, atol=0.02 * float(exact_b.abs().max()))
    assert float((stale_W - exact_W).norm()) > 20 * float((W - exact_W).norm())


def test_drift_that_no_map_explains_goes_into_the_covariance():
    """Where samples move at random, the means stay and the spread is what it would be: the noise of others, too."""
    (x, _), (own, y) = features(400, 0), features(2400, 1)
    generator = torch.Generator().manual_seed(2)
    noise = [0.2 * torch.randn(len(z), D, generator=generator, dtype=torch.float64) for z in (x, own)]
    drift = estimated_drift(x, x + noise[0])
    found = followed(sums_of(own, y, Moments()), Moments(), drift)
    exact = sums_of(own + noise[1], y, Moments())
    spread, expected = (within_covariance(s, Moments()).trace() for s in (found, exact))
    assert float(spread) == pytest.approx(float(expected), rel=0.1)
    assert float((drift.map - torch.eye(D)).norm()) < 0.5


def test_a_ridge_keeps_few_samples_from_explaining_everything():
    """With fewer samples than directions a map without a ridge would leave nothing over."""
    (x, _) = features(6, 0)
    noise = 0.2 * torch.randn(6, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drift = estimated_drift(x, x + noise)
    assert float(drift.rest.trace()) > 0.5 * float(noise.square().sum()) / 6
