"""Case 11: a tensor too few, too many, or of another name."""

import pytest
import torch

A = "a.lora_A.weight"


def test_a_missing_tensor_is_named(letter):
    assert f"{A!r} is missing" in letter.detail(letter.write(tensors={"b.lora_B.weight": torch.zeros(2, 1)}))


@pytest.mark.parametrize(
    "name", ["c.lora_A.weight", "a.weight", "../../etc/passwd", "two\nlines", "", "é", "a.lora_A.weight ", "x" * 300]
)
def test_a_tensor_that_was_not_allocated_is_named_on_one_short_line(letter, name):
    payload = letter.write(tensors={**letter.tensors, name: torch.ones(1)})
    assert letter.reason(payload, max_bytes=10**6) == "wrong tensors"
    detail = letter.detail(payload, max_bytes=10**6)
    assert "was not allocated" in detail
    assert repr(name)[:90] in detail
    assert "\n" not in detail
    assert len(detail) < 250


def test_a_tensor_under_another_name_is_refused(letter):
    renamed = {name.replace("lora_A", "lora_a"): value for name, value in letter.tensors.items()}
    assert letter.reason(letter.write(tensors=renamed)) == "wrong tensors"
