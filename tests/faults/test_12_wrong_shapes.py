"""Case 12: another shape, also one that would broadcast without a word."""

import pytest
import torch


@pytest.mark.parametrize(
    "shape", [(3, 2), (6,), (1, 3), (3,), (2, 1), (1, 1), (1,), (), (1, 2, 3), (2, 3, 1), (0, 3), (4, 3)]
)
def test_another_shape_is_refused(letter, shape):
    payload = letter.write(tensors={**letter.tensors, "a.lora_A.weight": torch.ones(shape)})
    assert letter.reason(payload) == "wrong tensors"
    assert letter.detail(payload) == (
        "expected 'a.lora_A.weight' as torch.float32 of shape (2, 3); "
        f"found torch.float32 of shape {shape}, from client 3 in round 5"
    )
