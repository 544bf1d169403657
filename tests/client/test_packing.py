import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhello.client.packing import Codes, binary, in_parts, numbers_per_byte, to_bytes, to_int8_rows


@given(st.integers(1, 5), st.integers(1, 40), st.floats(1e-6, 1e6), st.integers(0, 100))
def test_rounding_is_off_by_at_most_half_a_step(rows, columns, scale, seed):
    x = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    packed = to_int8_rows(x)
    assert packed.q.dtype == torch.int8
    assert bool(((packed.restore() - x).abs() <= packed.s * 0.5001).all())


def test_zeros_and_extremes_survive():
    x = torch.tensor([[0.0, 0.0], [-127.0, 127.0], [1.0, 0.5]])
    assert to_int8_rows(x).restore()[:2].tolist() == [[0.0, 0.0], [-127.0, 127.0]]
    assert to_int8_rows(x).restore()[2].tolist() == pytest.approx([1.0, 64 / 127])


@given(st.sampled_from([2, 4, 16]), st.integers(1, 70), st.integers(1, 3))
def test_numbers_of_levels_survive_in_as_many_bits(levels, size, rows):
    numbers = torch.randint(levels, (rows, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    parts = numbers_per_byte(levels)
    codes = to_bytes(in_parts(numbers.flatten(), parts).clone())
    assert len(codes) == -(-numbers.numel() // parts)
    values = torch.arange(levels) * 0.5 - 1
    assert torch.equal(Codes(codes, values, numbers.shape).restore(), values[numbers.long()])


@pytest.mark.parametrize("shape", [(7, 5, 3), (4, 64), (130,)])
def test_a_dropout_mask_is_held_exactly_in_bits(shape):
    mask = torch.empty(shape).bernoulli_(0.9).div_(0.9)
    for x in (mask, mask.bool(), mask.bfloat16()):
        packed = binary(x)
        assert packed.codes.nbytes == -(-x.numel() // 8)
        assert packed.restore().dtype == x.dtype
        assert torch.equal(packed.restore(), x)


def test_other_tensors_are_not_taken_for_masks():
    x = torch.zeros(200)
    x[:3], x[100] = 1.0, 0.5
    assert binary(x) is None
    assert binary(torch.linspace(0, 1, 10)) is None
    assert binary(torch.zeros(10)) is None
