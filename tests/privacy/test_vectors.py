"""Contributions as whole numbers: sums are right within the stated bound, and nothing goes in unsaid."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhello.aggregation.mean import WeightedMean
from fedhello.errors import PrivacyError, UpdateError
from fedhello.privacy.vectors import CUT, Encoding, weight_shape

SHAPES = {"head": (3, 2), "q.lora_A.weight": (4, 5), "q.lora_B.weight": (6, 4)}
WEIGHTS = {name: weight_shape(name, shape, ["head"]) for name, shape in SHAPES.items()}


def encoding(clients=5, limit=2.0, most=100.0):
    return Encoding(SHAPES, WEIGHTS, limit, most, clients, {"loss": 1000.0})


def contribution(rng, largest=2.0, most=100):
    found = WeightedMean()
    for name, shape in SHAPES.items():
        value = torch.from_numpy(rng.uniform(-largest, largest, shape))
        found.add(name, value, torch.from_numpy(rng.integers(0, most + 1, WEIGHTS[name]).astype(float)))
    return found


def summed(how, parts, numbers=0.0):
    vectors = [how.encode(part, {"loss": numbers}) for part in parts]
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return how.decode(total)


def test_weights_are_one_for_each_component_and_row():
    assert WEIGHTS == {"head": (3, 1), "q.lora_A.weight": (4, 1), "q.lora_B.weight": (1, 4)}
    assert weight_shape("head", (3, 2), []) == ()


@given(st.integers(1, 50), st.floats(1e-3, 1e3), st.integers(0, 2**32))
def test_the_sum_is_off_by_the_bound_at_most_and_weights_by_nothing(clients, limit, seed):
    rng, how = np.random.default_rng(seed), encoding(clients, limit)
    parts, expected = [contribution(rng, limit) for _ in range(clients)], WeightedMean()
    for part in parts:
        expected.include(part)
    found, numbers = summed(how, parts, numbers=12.5)
    assert numbers["loss"] == pytest.approx(12.5 * clients, abs=1000 * clients**2 / 2**30)
    assert numbers[CUT] == 0
    for name, value in expected.sums.items():
        assert float((found.sums[name] - value).abs().max()) <= how.error * 1.001
        assert torch.equal(found.totals[name], expected.totals[name])


def test_all_clients_at_the_limit_do_not_wrap_around():
    how, part = encoding(clients=7), WeightedMean()
    for name, shape in SHAPES.items():
        part.add(name, torch.full(shape, 2.0), 100.0)
    found, _ = summed(how, [part] * 7)
    assert all(torch.allclose(value, torch.tensor(1400.0).double(), rtol=1e-6) for value in found.sums.values())


def test_what_is_beyond_the_limit_is_cut_off_and_counted():
    part = WeightedMean()
    part.add("head", torch.tensor([[3.0, -5.0], [1.0, 2.0], [0.0, 0.0]]), 100.0)
    found, numbers = summed(encoding(), [part, part])
    assert found.sums["head"].tolist() == [pytest.approx([400, -400]), pytest.approx([200, 400]), [0, 0]]
    assert numbers[CUT] == 4


def test_what_nobody_trained_is_not_there():
    part = WeightedMean()
    part.add("head", torch.ones(3, 2), 1.0)
    found, _ = summed(encoding(), [part])
    assert found.sums.keys() == {"head"}


def test_what_cannot_be_summed_is_refused():
    part = WeightedMean()
    part.add("head", torch.tensor([[float("nan"), 0.0]] * 3), 1.0)
    with pytest.raises(UpdateError, match="expected a finite update") as caught:
        encoding().encode(part, {"loss": 0.0})
    assert caught.value.reason == "not finite"
    part = WeightedMean()
    part.add("head", torch.ones(3, 2), 101.0)
    with pytest.raises(UpdateError, match="expected weights from 0 to 100; found others"):
        encoding().encode(part, {"loss": 0.0})
    part = WeightedMean()
    part.add("other", torch.ones(3, 2), 1.0)
    with pytest.raises(UpdateError, match="expected sums of what trains in this round; found other"):
        encoding().encode(part, {"loss": 0.0})
    with pytest.raises(PrivacyError, match=r"expected weights of at most 42949672 .* found 100000000"):
        encoding(clients=50, most=1e8).encode(WeightedMean(), {"loss": 0.0})
