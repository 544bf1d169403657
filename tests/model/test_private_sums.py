"""Laws of the private release: sensitivity, what one client can do, noise where nobody is, and the way back."""

import math
from dataclasses import replace

import pytest
import torch

from fedhello.model import private_sums as module
from fedhello.model.head import class_means, family, within_covariance
from fedhello.model.private_sums import (
    COUNT_WEIGHT,
    WHOLE,
    PrivateStatistics,
    head_of,
    length_of,
    noised,
    private_sums,
    repaired,
)
from fedhello.model.statistics import UNIT, plus

D, C = 12, 3
CASES = [PrivateStatistics(), PrivateStatistics(moments=True), PrivateStatistics(clip=0.1), PrivateStatistics(clip=1e4)]


def client(n, seed=0, scale=1.0, classes=C):
    drawn = torch.Generator().manual_seed(seed)
    h = torch.nn.functional.normalize(torch.randn(n, D, generator=drawn), dim=1) * math.sqrt(D) * scale
    return h, torch.randint(classes, (n,), generator=drawn)


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 7, 500])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_a_client_changes_the_sum_by_at_most_c(settings, n, scale):
    others = private_sums(*client(40, 1), C, settings)
    one = private_sums(*client(n, 2, scale), C, settings)
    with_it = plus(others, one)
    assert length_of(plus(with_it, others, -1)) == length_of(one) <= settings.most


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_where_samples_are_protected_one_of_them_changes_the_sum_by_at_most_c(settings, scale):
    settings = replace(settings, unit="sample")
    h, y = client(30, 2, scale)
    every, without_one = private_sums(h, y, C, settings), private_sums(h[1:], y[1:], C, settings)
    changed = length_of(plus(every, without_one, -1))
    assert 0 < changed <= settings.most
    if settings.clip is None and scale == 1:
        assert length_of(every) > 3 * settings.most  # a client is not shortened


def test_the_bound_is_reached_so_noise_is_not_measured_against_too_much():
    settings = PrivateStatistics()
    assert length_of(private_sums(*client(500), C, settings)) == pytest.approx(settings.most, rel=1e-2)
    assert settings.most == pytest.approx(math.sqrt(1 + COUNT_WEIGHT**2))


def test_a_sum_that_is_not_clipped_is_that_of_the_samples():
    settings = PrivateStatistics(clip=1e6, moments=True)
    h, y = client(60)
    sums = repaired(private_sums(h, y, C, settings), 0.0, h[:0], moments=True)
    x = h.double() / math.sqrt(D)
    means = torch.stack([x[y == c].mean(dim=0) for c in range(C)])
    assert torch.allclose(sums.counts, torch.bincount(y, minlength=C).double(), atol=C * UNIT / COUNT_WEIGHT)
    assert torch.allclose(class_means(sums), means, atol=1e-3)
    residuals = x - means[y]
    assert torch.allclose(within_covariance(sums, WHOLE), residuals.T @ residuals / 60, atol=1e-3)


def test_values_that_are_not_finite_count_as_nothing():
    h, y = client(5)
    h[2, 3] = float("nan")
    assert length_of(private_sums(h, y, C, PrivateStatistics(moments=True))) == 0


@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize("deviation", [0.0, 0.5, 50.0])
def test_what_is_repaired_can_always_be_solved(moments, deviation):
    """Counts above 0, covariances without negative eigenvalues, and finite heads, even where noise is all there is."""
    settings = PrivateStatistics(moments=moments)
    total = private_sums(*client(30, classes=2), C, settings)  # nobody has the third class
    sums = repaired(noised(total, deviation), deviation, client(20, 5)[0], moments)
    assert float(sums.counts.min()) >= 1
    within = within_covariance(sums, WHOLE)
    assert float(torch.linalg.eigvalsh(within).min()) > -1e-6 * float(within.abs().max())
    for solver in ("lda", "ridge"):
        W, b = family(sums, WHOLE, solver).at(0.1)
        assert bool(W.isfinite().all()) and bool(b.isfinite().all())


def test_public_features_bring_noisy_means_closer():
    """Features that vary in 3 of 12 directions: noise in the other nine is taken out."""
    basis = torch.linalg.qr(torch.randn(D, 3, generator=torch.Generator().manual_seed(3)).double()).Q
    h, y = client(3000, 4)
    h = ((h.double() @ basis @ basis.T) + 3 * basis[:, y % 3].T).float()
    total = private_sums(h, y, C, PrivateStatistics(clip=1e6))
    truth = class_means(repaired(total, 0.0, h[:0], moments=False))
    drawn = [noised(total, 100.0) for _ in range(20)]
    errors = [
        sum(
            float((class_means(repaired(noisy, 100.0, public, moments=False)) - truth).square().sum())
            for noisy in drawn
        )
        for public in (h[:0], h[:200])
    ]
    assert errors[1] < 0.6 * errors[0]


def test_a_head_holds_on_features_that_are_rounded_otherwise_where_they_hardly_vary(monkeypatch):
    """Chosen by the loss in double precision alone, the head's loss is 485 here."""
    seeded = torch.Generator().manual_seed(0)

    def gaussian(shape, deviation):
        return torch.randn(shape, generator=seeded).double() * deviation

    monkeypatch.setattr(module, "gaussian", gaussian)
    h, y = client(40, 1)
    h = 5.0 + 1e-3 * h
    settings = PrivateStatistics()
    deviation = 0.05 * settings.most
    _, head = head_of(noised(private_sums(h, y, C, settings), deviation), deviation, h, y)
    z = module._rounded(h) @ head.weight.T + head.bias
    assert float(torch.nn.functional.cross_entropy(z, y)) < 1.5
