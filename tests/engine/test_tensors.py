import pytest
import torch

from fedhello.engine.tensors import check_tensors, short
from fedhello.errors import UpdateError

EXPECTED = {"a": torch.zeros(2, 3), "n": torch.zeros(2, dtype=torch.int64)}


def test_exactly_the_allocated_tensors_pass_and_integers_may_come_narrower():
    check_tensors({"a": torch.ones(2, 3), "n": torch.ones(2, dtype=torch.int64)}, EXPECTED)
    check_tensors({"n": torch.ones(2, dtype=torch.int32), "a": torch.ones(2, 3)}, EXPECTED)


@pytest.mark.parametrize(
    ("change", "reason", "sentence"),
    [
        ({"a": None}, "wrong tensors", "'a' is missing"),
        ({"b": torch.zeros(1)}, "wrong tensors", "'b' was not allocated"),
        ({"a": torch.zeros(3, 2)}, "wrong tensors", r"of shape \(2, 3\); found torch.float32 of shape \(3, 2\)"),
        ({"a": torch.zeros(2, 3).double()}, "wrong tensors", "found torch.float64"),
        ({"n": torch.zeros(2, dtype=torch.int16)}, "wrong tensors", "found torch.int16"),
        ({"a": torch.full((2, 3), torch.nan)}, "not finite", "'a' holds NaN or infinity"),
        ({"a": torch.full((2, 3), -torch.inf)}, "not finite", "'a' holds NaN or infinity"),
    ],
)
def test_anything_else_is_refused_with_its_reason(change, reason, sentence):
    tensors = {"a": torch.ones(2, 3), "n": torch.ones(2, dtype=torch.int64)} | change
    with pytest.raises(UpdateError, match=sentence) as caught:
        check_tensors({name: value for name, value in tensors.items() if value is not None}, EXPECTED)
    assert caught.value.reason == reason


def test_a_name_from_a_message_is_shown_on_one_line():
    assert short("a\nb") == r"'a\nb'"
    assert len(short("x" * 1000)) == 100
