"""Case 14: a value that is not finite, or too large for an aggregate; denormals and −0.0 are numbers like others."""

import pytest
import torch

from fedhello.engine.wire import decode

B = "b.lora_B.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_refused(letter, value):
    payload = letter.write(tensors={**letter.tensors, B: torch.tensor([[1.0], [value]])})
    assert letter.reason(payload) == "not finite"
    assert f"{B!r} holds NaN or infinity" in letter.detail(payload)


@pytest.mark.parametrize("value", [-0.0, 1e-45, -1e-45, 1e-39, 1e6])
def test_the_smallest_and_largest_numbers_and_negative_zero_are_taken(letter, value):
    sent = torch.tensor([[value], [-value]])
    found = decode(letter.write(tensors={**letter.tensors, B: sent}), letter.expected).tensors[B]
    assert found.view(torch.int32).tolist() == sent.view(torch.int32).tolist()


@pytest.mark.parametrize("value", [1.1e6, 1e38, -3e38, 3.4028234663852886e38])
def test_a_value_that_could_overflow_an_aggregate_is_refused(letter, value):
    payload = letter.write(tensors={**letter.tensors, B: torch.tensor([[1.0], [value]])})
    assert letter.reason(payload) == "out of bounds"
    assert "expected values of at most 1e+06" in letter.detail(payload)
