import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhello.client.cost_model import Growth, Peak
from fedhello.client.fisher import block_scores
from fedhello.client.memory import RESERVE, StepMemory
from fedhello.client.scoring import (
    LARGEST_SQUARE,
    BlockSums,
    calibrate_scoring,
    check_block_sums,
    client_sums,
    fitted_batch,
    mean_scores,
)
from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged
from fedhello.engine.scores import read_block_sums
from fedhello.engine.wire import encode_tensors
from fedhello.errors import UpdateError
from fedhello.randomness import generator

MANY = 10**6


def warm(model):
    tensors = model.snapshot(share_head=True).tensors
    rng = torch.Generator().manual_seed(1)
    model.write({name: 0.5 * torch.randn(v.shape, generator=rng) for name, v in tensors.items()})
    return model


def sums(squares, count):
    return BlockSums(torch.tensor(squares, dtype=torch.float64), torch.tensor(count, dtype=torch.float64))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(owner=st.lists(st.integers(0, 4), min_size=12, max_size=12))
def test_over_any_partition_they_come_to_the_scores_of_all_data(owner, tiny_model, random_examples):
    model, pooled = warm(tiny_model()), random_examples(samples=12)
    parts = [pooled.subset(np.flatnonzero(np.array(owner) == k)) for k in sorted(set(owner))]
    each = [client_sums(model, part, (0, 0, k), MANY, batch_size=1) for k, part in enumerate(parts)]
    assert mean_scores(each) == pytest.approx(block_scores(model, pooled, batch_size=1), rel=1e-10)
    batched = [client_sums(model, part, (0, 0, k), MANY, batch_size=k + 2) for k, part in enumerate(parts)]
    assert mean_scores(batched) == pytest.approx(mean_scores(each), rel=1e-4)


def test_a_client_uses_as_many_samples_as_asked_drawn_anew_for_each_round(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=10)
    first, again, later, other = (
        client_sums(model, data, who, 4, batch_size=1) for who in ((0, 0, 3), (0, 0, 3), (0, 1, 3), (0, 0, 4))
    )
    assert torch.equal(first.squares, again.squares)
    assert float(first.count) == 4
    assert len({tuple(found.squares.tolist()) for found in (first, later, other)}) == 3
    drawn = np.sort(generator(0, "scored samples", 0, 3).choice(10, size=4, replace=False))
    assert mean_scores([first]) == block_scores(model, data.subset(drawn), batch_size=1)
    everything = client_sums(model, data, (0, 0, 3), 10, batch_size=1)
    assert mean_scores([everything]) == block_scores(model, data, batch_size=1)


def test_more_samples_weigh_more():
    # Γ = (2·1 + 6·…): client 0 has one sample of squares (1, 0), client 1 has three that come to (0, 6).
    assert mean_scores([sums([1.0, 0.0], 1), sums([0.0, 6.0], 3)]) == (0.25, 1.5)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (sums([1.0, -1e-9], 2), "out of bounds"),
        (sums([1.0, 2.5 * LARGEST_SQUARE], 2), "out of bounds"),
        (sums([1.0, 1.0], 0), "wrong count"),
        (sums([1.0, 1.0], 5), "wrong count"),
        (sums([1.0, 1.0], 1.5), "wrong count"),
        (sums([1.0, 1.0], -1), "wrong count"),
        (sums([float("nan"), 1.0], 2), "not finite"),
        (sums([1.0, float("inf")], 2), "not finite"),
        (sums([1.0, 1.0], float("nan")), "not finite"),
        (sums([1.0], 2), "wrong tensors"),
        (BlockSums(torch.ones(2), torch.tensor(2.0)), "wrong tensors"),
    ],
)
def test_sums_that_no_samples_have_are_refused_at_the_door(found, reason):
    with pytest.raises(UpdateError) as raised:
        read_block_sums(encode_tensors(vars(found)), L=2, most=4)
    assert raised.value.reason == reason


def test_good_sums_pass_the_door_bit_for_bit():
    found = read_block_sums(encode_tensors(vars(sums([0.0, 1 / 3], 4))), L=2, most=4)
    assert (found.squares.tolist(), float(found.count)) == ([0.0, 1 / 3], 4.0)
    check_block_sums(found, most=4)


def test_bytes_of_passes_are_predicted(tiny_model):
    model = warm(tiny_model(width=64))
    peak = calibrate_scoring(model)
    for b, T in ((1, 8), (3, 8), (4, 24), (16, 12), (32, 32)):
        tokens = Ragged.of(np.full(T - (i == 0), 3) for i in range(b))
        with StepMemory(model.module.parameters()) as memory:
            client_sums(model, Examples(tokens, np.zeros(b, dtype=int), pad=0), (0, 0, 0), MANY, batch_size=b)
        assert memory.peak_bytes <= 1.02 * peak.at([(b, T)])
        assert peak.at([(b, T)]) <= 1.3 * memory.peak_bytes


def test_batches_are_as_large_as_the_memory_allows():
    peak = Peak((Growth(100.0, 0.0, 10.0, 0.0),))  # 100 + 10 bT
    assert fitted_batch(peak, RESERVE + 100 + 10 * 7 * 5, longest=7) == (5, "")
    assert fitted_batch(peak, RESERVE + 100 + 10 * 7 * 5 - 1, longest=7) == (4, "")
    assert fitted_batch(peak, 2**40, longest=7) == (32, "")
    assert fitted_batch(peak, None, longest=7) == fitted_batch(None, 1, longest=7) == (32, "")
    size, note = fitted_batch(peak, RESERVE, longest=7)
    assert size == 1
    assert note == "one sample takes 16.8 MB, more than its memory budget of 16.8 MB"
