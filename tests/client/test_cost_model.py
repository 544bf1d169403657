import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhello.client.cost_model import Growth, batch_shapes
from fedhello.data.batches import training_batches


def test_growth_by_hand():
    assert Growth(100, 7, 2, 3).at([(5, 4)]) == 100 + 35 + 2 * 20 + 3 * 80
    assert Growth(100, 0, 2, 0).at([(5, 4), (1, 1)]) == 2 * 100 + 2 * 21
    assert Growth(-100, 0, 2, 0).at([(1, 1)]) == 0


def test_growth_goes_through_what_was_measured():
    shapes = [(1, 32), (2, 32), (2, 96)]
    attention, head = Growth(1000.0, 0.0, 7.0, 0.5), Growth(1000.0, 80.0, 7.0, 0.0)
    for exact, terms in ((attention, "c α β"), (head, "c γ α")):
        found = Growth.through(shapes, [exact.at([shape]) for shape in shapes], terms)
        assert found.at([(64, 128)]) == pytest.approx(exact.at([(64, 128)]), rel=1e-9)


def test_growth_of_a_model_of_one_length_only():
    shapes = [(1, 197), (2, 197), (2, 197)]
    found = Growth.through(shapes, [1000 + 50 * b * 197 for b, _ in shapes])
    assert found.at([(16, 197)]) == pytest.approx(1000 + 50 * 16 * 197, rel=1e-6)


def test_batches_of_a_round_by_hand():
    widest, batches = batch_shapes(np.array([9, 3, 5, 4, 7]), batch_size=2, epochs=2)
    assert widest == (2, 9)
    assert batches == [(2, 4), (2, 7), (1, 9)] * 2


@given(st.integers(1, 1200), st.sampled_from([1, 4, 32, 64]), st.integers(0, 20))
def test_no_batch_is_wider_than_the_widest(samples, batch_size, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, samples)
    (b, T), _ = batch_shapes(lengths, batch_size, epochs=1)
    for positions in training_batches(lengths, batch_size, rng):
        assert len(positions) <= b
        assert lengths[positions].max() <= T
