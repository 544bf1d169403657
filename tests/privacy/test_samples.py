"""Rates and steps of training that protects single samples, and what a method's clients are asked."""

import pytest
import torch

import fedhello as fh
from fedhello.methods import METHODS
from fedhello.privacy.rounds import CLIP
from fedhello.privacy.samples import PrivateSteps, rate_and_steps, sample_method
from fedhello.strategy import AllocationContext

HOW = PrivateSteps(fh.Release("steps", 1.5, 0.25), steps=4, last_blocks=2)


@pytest.mark.parametrize(
    ("batch_size", "smallest", "epochs", "expected"),
    [
        (16, 64, 1, (0.25, 4)),
        (16, 64, 3, (0.25, 12)),
        (16, 18, 1, (16 / 18, 1)),
        (16, 7, 2, (1.0, 2)),
    ],
)
def test_the_smallest_client_has_an_expected_batch_of_the_batch_size_or_all_its_samples(
    batch_size, smallest, epochs, expected
):
    rate, steps = rate_and_steps(batch_size, smallest, epochs)
    assert (rate, steps) == pytest.approx(expected)
    assert rate * smallest == min(batch_size, smallest)


def test_a_method_keeps_its_blocks_within_the_last_ones_and_asks_for_the_clip_of_the_state():
    plain = METHODS["gd-hla"].bind(pattern="inverted_triangle")
    method = sample_method(plain, HOW)
    tier = fh.Budget(blocks=3)
    client = fh.Client(0, 0, tier, samples=9)
    federation = fh.Federation((client,), (tier,), num_blocks=4, clients_per_round=1, seed=0)
    context = AllocationContext(client, federation, 0, method_state={CLIP: torch.tensor(0.7)})
    found = method.allocate(context)
    assert (found.blocks, found.factors, found.head) == ((2, 3), "B", False)
    task = method.send(fh.Adapter({}, {}), found, context)
    assert task.clip == pytest.approx(0.7)
    assert method.aggregate is plain.aggregate
    with pytest.raises(ValueError, match="expected a clip"):
        method.send(fh.Adapter({}, {}), found, AllocationContext(client, federation, 0))


def test_a_round_of_a_client_is_that_many_steps_of_its_own():
    assert HOW.of(3, rounds=2) == fh.Release("steps", 1.5, 0.25, times=8, client=3)
