"""The head that sums lead to, against scikit-learn, against numbers by hand, and whatever the partition."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn.functional import cross_entropy

from fedhello.errors import DataError
from fedhello.model.head import (
    SHRINKAGES,
    calibrated,
    cross_validated_head,
    family,
    prototype_head,
    solved_head,
    within_covariance,
)
from fedhello.model.pooling import of_one_length
from fedhello.model.statistics import UNIT, HeadSums, Moments, StatisticsSettings, add_up, head_sums

CLASSES, D = 3, 8
FULL = Moments()


def samples(seed=0, n=240, d=D, classes=CLASSES):
    """Gaussians of one covariance around class means, of one length; the values are those that sums are made of."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres, mixing = torch.randn(classes, d, generator=generator), torch.randn(d, d, generator=generator)
    h = of_one_length(0.7 * centres[y] + 1.5 * torch.randn(n, d, generator=generator) @ mixing / d**0.5)
    x = (h.double() / (math.sqrt(d) * UNIT)).round() * UNIT
    return (x * math.sqrt(d)).float(), y


def sums_of(h, y, moments=FULL, owner=None, classes=CLASSES):
    how = StatisticsSettings(moments)
    if owner is None:
        return add_up([head_sums(h, y, classes, how)], moments)
    return add_up([head_sums(h[owner == k], y[owner == k], classes, how) for k in owner.unique()], moments)


def unequal(h, y):
    """Fewer samples of later classes."""
    kept = (y == 0) | ((y == 1) & (torch.arange(len(y)) % 2 == 0)) | ((y == 2) & (torch.arange(len(y)) % 5 == 0))
    return h[kept], y[kept]


@pytest.mark.parametrize("priors", ["balanced", "counted"])
@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9])
def test_lda_is_the_one_of_scikit_learn(shrinkage, priors):
    h, y = unequal(*samples())
    W, b = family(sums_of(h, y), FULL, "lda", priors).at(shrinkage)
    x = h.double().numpy() / math.sqrt(D)
    # scikit-learn weighs the classes' covariances by its priors, here by samples; balanced differ in log π alone.
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y.numpy())
    log_priors = np.log(known.priors_) if priors == "balanced" else 0.0
    assert np.allclose(W.numpy(), known.coef_, rtol=1e-5, atol=1e-5)
    assert np.allclose(b.numpy(), known.intercept_ - log_priors, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [1e-4, 0.1])
@pytest.mark.parametrize("priors", ["balanced", "counted"])
def test_ridge_is_a_direct_solution_of_least_squares(shrinkage, priors):
    h, y = unequal(*samples())
    x = np.c_[h.double().numpy() / math.sqrt(D), np.ones(len(h))]
    weights = np.ones(len(y)) / len(y) if priors == "counted" else 1 / (CLASSES * np.bincount(y)[y])
    targets = np.eye(CLASSES)[y]
    W, b = family(sums_of(h, y), FULL, "ridge", priors).at(shrinkage)
    within, means = np.zeros((D + 1, D + 1)), np.stack([x[y == c].mean(axis=0) for c in range(CLASSES)])
    for c in range(CLASSES):
        centred = x[y == c] - means[c]
        within += centred.T @ centred / len(y)
    share = np.array([weights[y == c].sum() for c in range(CLASSES)])
    R = within + means.T @ (share[:, None] * means)
    if priors == "counted":
        assert np.allclose(R, x.T @ (weights[:, None] * x)), "the moments of all samples"
    shrunk = (1 - shrinkage) * R + shrinkage * np.trace(R) / (D + 1) * np.eye(D + 1)
    expected = np.linalg.solve(shrunk, x.T @ (weights[:, None] * targets))
    assert np.allclose(W.numpy(), expected[:-1].T, rtol=1e-5, atol=1e-6)
    assert np.allclose(b.numpy(), expected[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["lda", "ridge"])
@pytest.mark.parametrize("moments", [FULL, Moments("diagonal"), Moments("sketch", 4, seed=1)], ids=lambda m: m.kind)
def test_the_solved_head_is_the_pooled_one_whatever_the_partition(moments, solver):
    h, y = samples(1)
    val_h, val_y = samples(1, n=60)

    def solved(owner):
        return solved_head(family(sums_of(h, y, moments, owner), moments, solver), val_h, val_y)

    pooled = solved(None)
    # by class: each client has one class; unequal sizes; at random; one sample each
    for owner in (y, (torch.arange(len(y)) ** 0.5).long(), torch.randint(9, y.shape), torch.arange(len(y))):
        found = solved(owner)
        assert float((found.weight - pooled.weight).abs().max()) <= 1e-8
        assert float((found.bias - pooled.bias).abs().max()) <= 1e-8
        assert (found.shrinkage, found.temperature, found.loss) == (pooled.shrinkage, pooled.temperature, pooled.loss)


def test_the_covariance_within_classes_is_that_of_the_samples():
    h, y = unequal(*samples(2))
    x = h.double() / math.sqrt(D)
    centred = x - torch.stack([x[y == c].mean(dim=0) for c in range(CLASSES)])[y]
    expected = centred.T @ centred / len(y)
    assert torch.allclose(within_covariance(sums_of(h, y), FULL), expected, atol=1e-12)
    diagonal = Moments("diagonal")
    assert torch.allclose(within_covariance(sums_of(h, y, diagonal), diagonal), expected.diag().diag(), atol=1e-12)
    whole = Moments("sketch", D, seed=0)
    assert torch.allclose(within_covariance(sums_of(h, y, whole), whole), expected, atol=2e-3)
    part = Moments("sketch", 3, seed=0)
    found = within_covariance(sums_of(h, y, part), part)
    P = part.projection(D)
    assert torch.allclose(P @ found @ P.T, P @ expected @ P.T, atol=2e-3)
    assert float(found.trace()) == pytest.approx(float(expected.trace()), rel=1e-2)


def test_the_covariance_from_class_means_by_hand():
    """One class, two clients, d = 1: client 0 has mean 1 of one sample, client 1 mean 0 of three.

    Σ_k n_k μ_k² = 1, n μ² = 4·(1/4)² = 1/4, and K − 1 = 1: Σ = 3/4.
    """
    moments, one = Moments("means"), round(1 / UNIT)

    def client(n, total):
        values = (torch.tensor([n]), torch.tensor([[total * one]]), torch.zeros(0).long(), torch.tensor([1]))
        return HeadSums(*values)

    total = add_up([client(1, 1), client(3, 0)], moments)
    assert float(within_covariance(total, moments)) == pytest.approx(0.75)


def test_the_covariance_from_class_means_is_right_on_average():
    """Over 200 draws of 20 pairs of features, 2 classes and 3 clients, of 1, 2 and 4 samples of each: E Σ̂ = Σ."""
    moments, generator = Moments("means"), torch.Generator().manual_seed(0)
    true = torch.tensor([[0.04, 0.01], [0.01, 0.02]], dtype=torch.float64)
    L, owner = torch.linalg.cholesky(true), torch.tensor([0, 1, 1, 2, 2, 2, 2] * 2)
    y, centres = torch.arange(14) // 7, torch.tensor([[0.5, 0.0], [0.0, -0.5]], dtype=torch.float64)
    total = torch.zeros(40, 40, dtype=torch.float64)
    for _ in range(200):
        x = centres[y, None] + torch.randn(14, 20, 2, dtype=torch.float64, generator=generator) @ L.T
        total += within_covariance(sums_of(x.flatten(1) * math.sqrt(40), y, moments, owner, classes=2), moments)
    pairs = total.view(20, 2, 20, 2).diagonal(dim1=0, dim2=2)
    assert torch.allclose(pairs.sum(-1) / 4000, true, atol=2e-3)


@pytest.mark.parametrize("solver", ["lda", "ridge"])
def test_the_chosen_shrinkage_and_temperature_are_the_best_of_all(solver):
    h, y = samples(3)
    val_h, val_y = samples(3, n=90)
    found = family(sums_of(h, y), FULL, solver)
    head = solved_head(found, val_h, val_y)
    assert head.weight.is_contiguous(), "PEFT saves nothing else"
    z = val_h @ head.weight.T + head.bias
    smoothed = partial(cross_entropy, label_smoothing=1 / 92)
    assert float(smoothed(z, val_y)) == pytest.approx(head.loss, abs=1e-5)
    losses = {a: solved_head(found, val_h, val_y, (a,)).loss for a in SHRINKAGES}
    assert head.loss == min(losses.values())
    assert head.shrinkage == min(losses, key=losses.get)
    for factor in (0.9, 1.1):
        assert float(smoothed(factor * z, val_y)) > head.loss - 1e-9


def test_the_temperature_is_the_minimiser():
    """Two classes at logits ±1, three in four right, smoothed by 1/6: σ(2t) = (3·11/12 + 1/12)/4 = 17/24."""
    z = torch.tensor([[1.0, -1.0]] * 4, dtype=torch.float64)
    loss, t = calibrated(z, torch.tensor([0, 0, 0, 1]))
    assert t == pytest.approx(math.log(17 / 7) / 2, rel=1e-3)
    assert loss == pytest.approx(-(17 * math.log(17 / 24) + 7 * math.log(7 / 24)) / 24, abs=1e-6)
    assert calibrated(100 * z, torch.tensor([0, 0, 0, 1]))[1] == pytest.approx(t / 100, rel=1e-2)


def test_a_temperature_is_finite_where_all_are_right():
    """σ(2t) = 11/12."""
    z = torch.tensor([[1.0, -1.0]] * 4, dtype=torch.float64)
    assert calibrated(z, torch.zeros(4, dtype=torch.int64))[1] == pytest.approx(math.log(11) / 2, rel=1e-3)


def test_cross_validation_predicts_each_fold_without_it():
    """Labels that are noise: a head that saw them would predict better than chance, one that did not cannot."""
    generator = torch.Generator().manual_seed(0)
    h = of_one_length(torch.randn(60, 40, generator=generator))
    y, folds = torch.arange(60) % 3, torch.arange(60) // 3 % 5
    solved = []

    def solve(kept):
        solved.append(kept)
        return family(sums_of(h[kept], y[kept]), FULL, "lda")

    head = cross_validated_head(h, y, folds, solve)
    assert [int(kept.sum()) for kept in solved] == [48] * 5 + [60]
    assert head.loss > 0.9 * math.log(3)
    assert solved_head(solve(torch.ones(60).bool()), h, y).loss < 0.5 * math.log(3)


def test_prototypes_by_hand():
    # Two classes on two axes, h = √2 x of x = (1, 0) and (0, 1): their mean (½, ½), w = s (±1, ∓1)/√2.
    h = math.sqrt(2) * torch.eye(2)
    head = prototype_head(sums_of(h, torch.tensor([0, 1]), Moments("means"), classes=2), scale=math.sqrt(2))
    assert torch.allclose(head.weight, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    assert torch.allclose(head.bias, torch.zeros(2), atol=1e-7)
    assert (head.shrinkage, head.temperature, head.loss) == (None, None, None)


def test_logits_of_prototypes_are_those_of_centred_features():
    h, y = samples(4)
    head = prototype_head(sums_of(h, y), scale=3.0)
    means = torch.stack([h[y == c].mean(dim=0) for c in range(CLASSES)])
    expected = 3 * (h - means.mean(dim=0)) @ torch.nn.functional.normalize(means - means.mean(dim=0), dim=1).T
    assert torch.allclose(h @ head.weight.T + head.bias, expected, atol=1e-4)


@pytest.mark.parametrize("solve", [lambda s: prototype_head(s, 1.0), lambda s: family(s, FULL, "lda")])
def test_a_class_that_no_client_holds_is_named(solve):
    h, y = samples()
    kept = y == 0
    with pytest.raises(DataError, match=r"classes \[1, 2\] have none"):
        solve(sums_of(h[kept], y[kept]))
