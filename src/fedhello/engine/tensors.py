"""Check tensors from a client: exactly the allocated ones, of the right shapes and types, finite."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fedhello.errors import UpdateError

LARGEST_VALUE = 1e6
"""No value of an adapter or a head that a client trains is larger in absolute value, so that no aggregate overflows."""

NARROWER = {torch.int64: torch.int32}
"""Smaller types that may be sent instead."""


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check received tensors against the expected ones.

    Args:
        tensors: The received tensors.
        expected: Name → tensor of the expected shape and dtype; 64-bit integers may come as 32-bit integers.

    Raises:
        UpdateError: If names, shapes or types differ, or a value is not finite.
    """
    check_names(tensors.keys(), expected)
    check_values(tensors, expected)


def check_names(found: Collection[str], expected: Mapping[str, Tensor]) -> None:
    """Check that the names are exactly the expected ones."""
    odd = sorted(set(found) ^ expected.keys())
    if odd:
        state = "is missing" if odd[0] in expected else "was not allocated"
        raise UpdateError(f"expected exactly the allocated tensors; {short(odd[0])} {state}", "wrong tensors")


def check_values(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check shapes, types and values of tensors with the expected names."""
    for name, value in tensors.items():
        like = expected[name]
        if value.shape != like.shape or value.dtype not in (like.dtype, NARROWER.get(like.dtype)):
            raise UpdateError(
                f"expected {name!r} as {like.dtype} of shape {tuple(like.shape)}; "
                f"found {value.dtype} of shape {tuple(value.shape)}",
                "wrong tensors",
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UpdateError(f"expected finite values; {name!r} holds NaN or infinity", "not finite")


def check_bounds(tensors: Mapping[str, Tensor]) -> None:
    """Check that no value of an update is so large that what it enters could overflow.

    Raises:
        UpdateError: If one is above ``LARGEST_VALUE`` in absolute value.
    """
    for name, value in tensors.items():
        if value.numel() and not float(value.abs().max()) <= LARGEST_VALUE:
            raise UpdateError(
                f"expected values of at most {LARGEST_VALUE:g}; {name!r} holds {float(value.abs().max()):.3g}",
                "out of bounds",
            )


def short(value: object) -> str:
    """Return a value from a message as one line of limited length."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
