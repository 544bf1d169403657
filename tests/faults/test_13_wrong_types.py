"""Case 13: another number type."""

import pytest
import torch


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn],
)
def test_another_number_type_is_refused(letter, dtype):
    payload = letter.write(tensors={**letter.tensors, "a.lora_A.weight": torch.ones(2, 3).to(dtype)})
    assert letter.reason(payload) == "wrong tensors"
    assert f"found {dtype} of shape (2, 3)" in letter.detail(payload)
