import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhello.client.cost_model import Growth, Peak, batch_shapes, labelled
from fedhello.data.batches import training_batches


def test_growth_by_hand():
    assert Growth(100, 7, 2, 3).at([(5, 4)]) == 100 + 35 + 2 * 20 + 3 * 80
    assert Growth(100, 7, 2, 3, 11, 13, 17).at([(5, 4, 6)]) == 100 + 35 + 40 + 240 + 11 * 4 + 13 * 16 + 17 * 6
    assert Growth(100, 0, 2, 0).at([(5, 4), (1, 1)]) == 2 * 100 + 2 * 21
    assert Growth(100, 0, 2, 0).at([(5, 4), (1, 1)], counts=[3, 2]) == 3 * 140 + 2 * 102
    assert Growth(-100, 0, 2, 0).at([(1, 1)]) == 0


SHAPES = [(b, T, 1) for b in (2, 3) for T in (8, 16, 24)] + [(3, 24, 40)]


@pytest.mark.parametrize("term", range(7))
def test_growth_goes_through_what_was_measured_far_beyond_it(term):
    exact = Growth(*(1000.0 + 7 * (k == term) for k in range(7)))
    found = Growth.through(SHAPES, [exact.at([shape]) for shape in SHAPES])
    for far in ((64, 512, 9000), (1, 3, 1), (16, 5, 64)):
        assert found.at([far]) == pytest.approx(exact.at([far]), rel=1e-6)


def test_growth_of_a_model_of_one_length_only():
    shapes = [(2, 197), (3, 197)]
    found = Growth.through(shapes, [1000 + 50 * b * 197 for b, _ in shapes])
    assert found.at([(16, 197)]) == pytest.approx(1000 + 50 * 16 * 197, rel=1e-6)


def test_the_peak_is_that_of_the_moment_which_is_largest_for_a_batch():
    """Short texts peak where every sample takes a constant, long ones where attention is: 9000 b and b T²."""
    shapes = [shape[:2] for shape in SHAPES[:6]]
    found = Peak.through(shapes, [[9000 * b, b * T**2, 10 * b * T, -5] for b, T in shapes])
    for b, T in ((1, 5), (4, 94), (4, 96), (16, 512)):
        assert found.at([(b, T)]) == pytest.approx(max(9000 * b, b * T**2), rel=1e-6)
    assert len(found.pieces) == 2  # what is never the largest is not kept


def test_labels_that_are_not_counted_are_as_many_as_possible():
    peak = Peak((Growth(0, 0, 0, 0, per_label=1.0),), answer=10)
    assert peak.at([(4, 100)]) == 40
    assert peak.at([(4, 5)]) == 16  # a text's first token is not predicted
    assert peak.at([(4, 100, 7)]) == 7
    assert labelled((4, 100), None) == (4, 100)
    assert labelled((4, 100, 7), None) == labelled((4, 100, 7), 10) == (4, 100, 7)


def test_batches_of_a_round_by_hand():
    widest, batches = batch_shapes(np.array([9, 3, 5, 4, 7]), batch_size=2, epochs=2)
    assert widest == (2, 9)
    assert batches == [(2, 4), (2, 7), (1, 9)] * 2
    widest, batches = batch_shapes(np.array([9, 3, 5, 4, 7]), 2, 1, answers=np.array([3, 1, 4, 2, 5]))
    assert widest == (2, 9, 5 + 4)
    assert batches == [(2, 4, 3), (2, 7, 9), (1, 9, 3)]


@given(st.integers(1, 1200), st.sampled_from([1, 4, 32, 64]), st.integers(0, 20))
def test_no_batch_is_wider_than_the_widest(samples, batch_size, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, samples)
    (b, T), _ = batch_shapes(lengths, batch_size, epochs=1)
    for positions in training_batches(lengths, batch_size, rng):
        assert len(positions) <= b
        assert lengths[positions].max() <= T
