"""Head statistics are sums: of any partition, in any order, and with anybody's taken out again."""

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.errors import UpdateError
from fedhello.model.pooling import of_one_length
from fedhello.model.statistics import (
    UNIT,
    HeadSums,
    Moments,
    StatisticsSettings,
    add_up,
    as_received,
    as_sent,
    check_sums,
    faded,
    head_sums,
    like,
    longest_pooled,
    packed,
    plus,
    scaled_to,
    unpacked,
    without,
)

CLASSES, D = 4, 6
INTEGERS = (Moments(), Moments("diagonal"), Moments("sketch", 3, seed=5))
ALL = (*INTEGERS, Moments("means"))


def samples(seed, n=60, d=D):
    generator = torch.Generator().manual_seed(seed)
    h = of_one_length(torch.randn(n, d, generator=generator))
    return h, torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (n - CLASSES,), generator=generator)])


def of_clients(h, y, owner, moments):
    """Whoever has samples, by id."""
    how = StatisticsSettings(moments)
    return {int(k): head_sums(h[owner == k], y[owner == k], CLASSES, how) for k in owner.unique()}


def same(one, other, but=()):
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(HeadSums) if f.name not in but)


@pytest.mark.parametrize("moments", INTEGERS, ids=lambda m: m.kind)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), clients=st.integers(1, 20), order=st.randoms(use_true_random=False))
def test_sums_over_any_partition_and_order_are_those_of_the_pooled_data_bit_for_bit(moments, seed, clients, order):
    h, y = samples(seed)
    pooled = head_sums(h, y, CLASSES, StatisticsSettings(moments))
    owner = torch.randint(clients, (len(h),), generator=torch.Generator().manual_seed(seed))
    parts = list(of_clients(h, y, owner, moments).values())
    order.shuffle(parts)
    total = add_up(parts, moments)
    assert same(total, pooled, but=("cells",))
    assert total.cells.tolist() == [sum(int(part.counts[c] > 0) for part in parts) for c in range(CLASSES)]
    assert total.features.dtype == total.moments.dtype == torch.int64


@pytest.mark.parametrize("moments", INTEGERS, ids=lambda m: m.kind)
def test_whoever_leaves_takes_everything_along_and_brings_it_back(moments):
    h, y = samples(3)
    parts = of_clients(h, y, torch.arange(len(h)) % 7, moments)
    total = add_up(parts.values(), moments)
    others = add_up([part for k, part in parts.items() if k != 2], moments)
    left = without(total, parts[2], moments)
    assert same(left, others)
    assert not same(left, total)
    assert same(plus(left, parts[2]), total)


def test_of_means_what_is_left_is_the_same_but_for_rounding():
    h, y = samples(3)
    moments = Moments("means")
    parts = of_clients(h, y, torch.arange(len(h)) % 5, moments)
    left = without(add_up(parts.values(), moments), parts[1], moments)
    others = add_up([part for k, part in parts.items() if k != 1], moments)
    assert same(left, others, but=("moments",))
    assert torch.allclose(left.moments, others.moments, rtol=1e-12)


def test_sums_by_hand():
    """d = 4, so x = h/2: class 0 has (1, 0, 0, 0) and (0, 1, 0, 0), class 1 has (0, 0, ½, −½), in units of 2⁻¹²."""
    h = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 1.0, -1.0]])
    found = head_sums(h, torch.tensor([0, 0, 1]), 3, StatisticsSettings())
    one, half = round(1 / UNIT), round(0.5 / UNIT)
    assert found.counts.tolist() == [2, 1, 0]
    assert found.cells.tolist() == [1, 1, 0]
    assert found.features.tolist() == [[one, one, 0, 0], [0, 0, half, -half], [0, 0, 0, 0]]
    assert found.moments.tolist() == [one**2, 0, 0, 0, one**2, 0, 0, half**2, -(half**2), half**2]
    diagonal = head_sums(h, torch.tensor([0, 0, 1]), 3, StatisticsSettings(Moments("diagonal"))).moments
    assert diagonal.tolist() == [one**2, one**2, half**2, half**2]
    means = [head_sums(h, torch.tensor([0, 0, 1]), 3, StatisticsSettings(Moments("means")))]
    assert means[0].moments.numel() == 0
    # Σ_c S S^T/n: class 0 (1, 1, 0, 0)(1, 1, 0, 0)ᵀ/2, class 1 as it is.
    expected = torch.tensor([1 / 2, 1 / 2, 0, 0, 1 / 2, 0, 0, 1 / 4, -1 / 4, 1 / 4], dtype=torch.float64)
    assert torch.allclose(add_up(means, Moments("means")).moments * UNIT**2, expected)


def test_a_sketch_is_of_projected_features_and_keeps_the_trace():
    moments = Moments("sketch", 3, seed=5)
    h, y = samples(0)
    P = moments.projection(D)
    assert torch.allclose(P @ P.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.equal(P, Moments("sketch", 3, seed=5).projection(D))
    assert not torch.equal(P, Moments("sketch", 3, seed=6).projection(D))
    found = head_sums(h, y, CLASSES, StatisticsSettings(moments)).moments.double() * UNIT**2
    x = h.double() / math.sqrt(D)
    assert torch.allclose(unpacked(found[:-1], 3), P @ x.T @ x @ P.T, atol=0.05)
    assert float(found[-1]) == pytest.approx(len(h), rel=1e-3)


@pytest.mark.parametrize("moments", ALL, ids=lambda m: m.kind)
def test_what_travels_has_the_shapes_that_are_expected_and_32_bits_where_they_do(moments):
    h, y = samples(1)
    few = head_sums(h[:8], y[:8], CLASSES, StatisticsSettings(moments))
    sent = as_sent(few)
    assert {name: tuple(v.shape) for name, v in sent.items()} == {
        name: tuple(v.shape) for name, v in like(CLASSES, D, moments).items()
    }
    assert {v.dtype for v in sent.values()} == {torch.int32}
    assert same(as_received(sent), few)


def test_sums_too_large_for_32_bits_travel_as_64():
    """A value of 1 has 2²⁴ units u²: 127 samples stay below 2³¹, 128 do not."""
    x = math.sqrt(1.0) * torch.ones(128, 1)
    for n, dtype in ((127, torch.int32), (128, torch.int64)):
        found = head_sums(x[:n], torch.zeros(n, dtype=torch.int64), 1, StatisticsSettings())
        sent = as_sent(found)
        assert (sent["moments"].dtype, sent["features"].dtype) == (dtype, torch.int32)
        assert int(as_received(sent).moments) == n * 2**24


def test_a_class_of_one_sample_stays_at_home_where_two_are_the_least():
    h, _ = samples(0, n=5)
    y = torch.tensor([0, 0, 1, 2, 2])
    found = head_sums(h, y, CLASSES, StatisticsSettings(least=2))
    kept = torch.tensor([True, True, False, True, True])
    assert found.counts.tolist() == [2, 0, 2, 0]
    assert found.cells.tolist() == [1, 0, 1, 0]
    assert same(found, head_sums(h[kept], y[kept], CLASSES, StatisticsSettings()))


def test_a_triangle_is_half_of_its_matrix():
    G = torch.tensor([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]], dtype=torch.float64)
    assert packed(G).tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.equal(unpacked(packed(G), 3), G)


def test_what_fades_counts_less_beside_what_is_new():
    h, y = samples(0)
    sums = head_sums(h, y, CLASSES, StatisticsSettings())
    both = plus(faded(sums, 0.25), sums)
    assert torch.equal(both.features, sums.features * 1.25)
    assert torch.equal(both.counts, sums.counts * 1.25)


def test_of_nobody_there_is_no_sum():
    with pytest.raises(ValueError, match="at least one client; found none"):
        add_up([], Moments())


@pytest.mark.parametrize("moments", ALL, ids=lambda m: m.kind)
def test_honest_sums_pass_the_check(moments):
    for seed in range(5):
        h, y = samples(seed)
        check_sums(head_sums(h, y, CLASSES, StatisticsSettings(moments)), len(h), longest_pooled(D))
        one = h[:1].clone()  # all of one class, one direction: the sums are as long as they can be
        check_sums(head_sums(one.repeat(9, 1), torch.zeros(9).long(), CLASSES, StatisticsSettings(moments)), 9,
                   longest_pooled(D))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: replace(s, counts=s.counts.clone().index_fill_(0, torch.tensor([0]), -1)), "wrong count"),
        (lambda s: replace(s, counts=s.counts + 1), "wrong count"),
        (lambda s: replace(s, counts=torch.full_like(s.counts, 2**62)), "wrong count"),
        (lambda s: replace(s, features=3 * s.features.abs() + round(2 / UNIT)), "out of bounds"),
        (lambda s: replace(s, counts=s.counts * 0), "out of bounds"),
        (lambda s: replace(s, moments=s.moments + 100 * round(1 / UNIT**2)), "out of bounds"),
        (lambda s: replace(s, moments=s.moments - 100 * round(1 / UNIT**2)), "out of bounds"),
    ],
    ids=["negative", "too many", "beyond 64 bits", "too long", "of nobody", "too large", "too small"],
)
def test_sums_that_cannot_be_are_refused(change, reason):
    h, y = samples(0)
    sums = head_sums(h, y, CLASSES, StatisticsSettings())
    with pytest.raises(UpdateError) as found:
        check_sums(change(sums), len(h), longest_pooled(D))
    assert found.value.reason == reason


def test_counts_in_classes_that_a_client_did_not_declare_are_refused():
    h, y = samples(0)
    sums = head_sums(h, y, CLASSES, StatisticsSettings())
    declared = sorted(set(y.tolist()))
    check_sums(sums, len(h), longest_pooled(D), declared)
    with pytest.raises(UpdateError, match="expected counts in the declared classes") as found:
        check_sums(sums, len(h), longest_pooled(D), declared[1:])
    assert found.value.reason == "wrong count"


@pytest.mark.parametrize("moments", ALL, ids=lambda m: m.kind)
def test_sums_beyond_the_cap_count_as_those_of_fewer_samples_by_one_factor(moments):
    """A client's means, and so its part of the head, stay; what it weighs does not."""
    h, y = samples(0)
    sums = head_sums(h, y, CLASSES, StatisticsSettings(moments))
    half = scaled_to(sums, len(h) // 2)
    assert float(half.counts.sum()) == len(h) // 2
    factor = (len(h) // 2) / len(h)
    for name in ("counts", "features", "moments"):
        assert torch.equal(getattr(half, name), getattr(sums, name).double() * factor)
    assert torch.equal(half.cells, sums.cells)
    assert scaled_to(sums, len(h)) is sums and scaled_to(sums, None) is sums
