"""Case 66: class sums of fractional counts, of classes that were not declared, or longer than their samples allow."""

from dataclasses import replace

import pytest
import torch

from fedhello.engine.wire import decode_sums, encode_tensors
from fedhello.errors import UpdateError
from fedhello.model.statistics import (
    DEFAULT_STATISTICS,
    UNIT,
    Moments,
    as_received,
    as_sent,
    check_sums,
    head_sums,
    like,
    longest_pooled,
)

C, D, N = 4, 6, 30
LONGEST = longest_pooled(D)
DECLARED = (0, 1, 2)


@pytest.fixture
def sums():
    h = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    unit = h / h.norm(dim=1, keepdim=True) * D**0.5
    return head_sums(unit, torch.arange(N) % 3, C, DEFAULT_STATISTICS)


def refused(sums, samples=N):
    with pytest.raises(UpdateError) as raised:
        check_sums(sums, samples, LONGEST, DECLARED)
    return raised.value.reason


def test_what_honest_clients_send_passes(sums):
    check_sums(as_received(decode_sums(encode_tensors(as_sent(sums)), like(C, D, Moments()))), N, LONGEST, DECLARED)


@pytest.mark.parametrize("part", ["counts", "features", "moments"])
def test_fractional_numbers_are_refused(sums, part):
    tensors = dict(as_sent(sums))
    tensors[part] = tensors[part].double() + 0.5
    with pytest.raises(UpdateError) as raised:
        decode_sums(encode_tensors(tensors), like(C, D, Moments()))
    assert raised.value.reason == "wrong tensors"


def test_counts_are_at_least_zero_and_in_declared_classes_and_no_more_than_was_declared(sums):
    counts = sums.counts
    assert refused(replace(sums, counts=counts - 100)) == "wrong count"
    assert refused(replace(sums, counts=counts.clone().index_fill_(0, torch.tensor([3]), 1))) == "wrong count"
    assert refused(replace(sums, counts=counts + 1)) == "wrong count"
    assert refused(sums, samples=N - 1) == "wrong count"


@pytest.mark.parametrize("c", DECLARED)
def test_no_class_has_a_longer_sum_than_its_own_samples_allow(sums, c):
    """The bound is one for each class: what others leave unused is of no use to it."""
    most = float(sums.counts[c]) * LONGEST / UNIT
    for share, allowed in ((0.99, True), (1.01, False)):
        features = sums.features * 0
        features[c, 0] = int(share * most)
        if allowed:
            check_sums(replace(sums, features=features), N, LONGEST, DECLARED)
        else:
            assert refused(replace(sums, features=features)) == "out of bounds"


def test_moments_have_the_norm_of_as_many_features(sums):
    """Before, each of the d (d + 1)/2 numbers could be as large as their norm can be: d times too much."""
    most = int(N * LONGEST**2 / UNIT**2)
    each = torch.full_like(sums.moments, most)
    assert float(each.double().norm()) > 4 * most
    assert refused(replace(sums, moments=each)) == "out of bounds"
    assert refused(replace(sums, moments=-each)) == "out of bounds"
