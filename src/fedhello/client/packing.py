"""Formats in which tensors are held between forward and backward: int8 rows, and the numbers of a few levels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LARGEST = 127

PIECES = 8
"""In so many pieces the largest tensors are packed and restored, so that little else is held meanwhile. As the number
is fixed, what is held grows with the tensor."""


@dataclass(frozen=True)
class Int8Rows:
    """A tensor as int8 with one scale per row: x ≈ q·s, off by at most s/2.

    Attributes:
        q: Int8, the tensor's shape.
        s: Float32, the tensor's shape with a last dimension of 1.
        dtype: The original tensor's type.
    """

    q: Tensor
    s: Tensor
    dtype: torch.dtype

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held."""
        return self.q, self.s

    def view(self, shape: torch.Size) -> "Int8Rows":
        """Return the same rows of a tensor of another shape."""
        return replace(self, q=self.q.view(shape), s=self.s.view(*shape[:-1], 1))

    def restore(self) -> Tensor:
        """Return q·s in the original type."""
        return (self.q * self.s).to(self.dtype)


def to_int8_rows(x: Tensor) -> Int8Rows:
    """Round each row (the last dimension) to 255 levels between −max|row| and max|row|."""
    s = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return Int8Rows((x / s).round_().to(torch.int8), s, x.dtype)


@dataclass(frozen=True)
class Codes:
    """A tensor whose elements are of 2, 4 or 16 levels, each held as its level's number in 1, 2 or 4 bits.

    With n numbers in a byte the elements stand in n parts one after another; byte j holds the j-th number of each part.

    Attributes:
        codes: Uint8.
        levels: The levels, in the tensor's type.
        shape: The tensor's.
    """

    codes: Tensor
    levels: Tensor
    shape: torch.Size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held."""
        return self.codes, self.levels

    def view(self, shape: torch.Size) -> "Codes":
        """Return the same elements of a tensor of another shape."""
        return replace(self, shape=shape)

    def restore(self) -> Tensor:
        """Return the tensor."""
        parts = numbers_per_byte(len(self.levels))
        x = torch.empty(parts, len(self.codes), dtype=self.levels.dtype, device=self.codes.device)
        pieces = PIECES if len(self.levels) > 2 else 1
        for piece, codes in zip(x.tensor_split(pieces, 1), self.codes.tensor_split(pieces), strict=True):
            numbers = codes.expand(parts, -1) >> _shifts(parts, codes.device)
            numbers = numbers.bitwise_and_(len(self.levels) - 1).int().view(-1)
            piece.copy_(self.levels.index_select(0, numbers).view(piece.shape))
        return x.view(-1)[: self.shape.numel()].view(self.shape)


def numbers_per_byte(levels: int) -> int:
    """Return how many levels' numbers a byte holds."""
    return 8 // (levels.bit_length() - 1)


def _shifts(parts: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, 8 // parts, dtype=torch.uint8, device=device)[:, None]


def in_parts(flat: Tensor, parts: int) -> Tensor:
    """Return a tensor of one dimension in rows, one a part; the last is filled with its last element.

    Args:
        flat: The tensor, which is only copied if it must be filled.
        parts: How many.
    """
    missing = -len(flat) % parts
    return torch.cat((flat, flat[-1:].expand(missing))).view(parts, -1) if missing else flat.view(parts, -1)


def to_bytes(numbers: Tensor) -> Tensor:
    """Return the bytes of numbers of levels in parts, uint8 of shape (parts, …), which change."""
    shifted = numbers.bitwise_left_shift_(_shifts(len(numbers), numbers.device))
    return shifted.sum(dim=0, dtype=torch.uint8)


def binary(x: Tensor) -> Codes | None:
    """Return a tensor of zeros and one other value, as dropout masks are, exactly as bits; None if it is none.

    Numbers that are all zero are none: then how much is held would depend on values.
    """
    if x.dtype == torch.bool:
        return _bits(x.reshape(-1), torch.tensor([False, True], device=x.device), x.shape)
    first = x[(0,) * (x.dim() - 1)][:64]
    levels = torch.stack((torch.zeros_like(first[0]), first.max()))
    flat = x.reshape(-1) if _has_only(first, levels) and bool(levels[1]) else None
    if flat is None or not _has_only(flat, levels):
        return None
    return _bits(flat != 0, levels, x.shape)


def _bits(flat: Tensor, levels: Tensor, shape: torch.Size) -> Codes:
    return Codes(to_bytes(in_parts(flat, 8).to(torch.uint8)), levels, shape)


def _has_only(flat: Tensor, values: Tensor) -> bool:
    return bool(((flat == values[0]) | (flat == values[1])).all())
