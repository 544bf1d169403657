"""Headers of messages: JSON, and what safetensors state about their tensors, read before any tensor is."""

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedhello.engine.tensors import short
from fedhello.errors import UpdateError
from fedhello.safe_tensors import stated
from fedhello.types import Adapter, Allocation, NoisySteps

LONGEST_TASK_HEADER = 2**16
"""The most characters of a task's JSON, enough for thousands of blocks."""


def task_header(payload: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON of a serialised task, unchecked, and the position at which its tensors begin.

    Raises:
        UpdateError: If there is no JSON object.
    """
    try:
        header, end = json.JSONDecoder().raw_decode(payload[:LONGEST_TASK_HEADER].decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise UpdateError(f"expected a task for this model; {short(str(error))}", "malformed") from error
    if not isinstance(header, dict):
        raise UpdateError(f"expected a task for this model; found {short(header)}", "malformed")
    return header, end


def as_steps(found: Any) -> NoisySteps | None:
    """Return the steps on single samples that JSON states; None for none.

    Raises:
        ValueError: If they are none.
    """
    if found is None:
        return None
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    noise, rate, steps = (fields.get(name, math.nan) for name in ("noise", "rate", "steps"))
    if not _above_0(noise) or not _above_0(rate) or rate > 1 or type(steps) is not int or steps < 1:
        raise ValueError("a noise, a rate of at most 1 and a number of steps on single samples")
    return NoisySteps(float(noise), float(rate), steps)


def _above_0(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def as_components(found: list[Any]) -> tuple[int | tuple[int, ...], ...]:
    """Return the components of an allocation that JSON states: numbers, or a list of numbers for each block."""
    return tuple(tuple(own) if isinstance(own, list) else own for own in found)


def tensor_header(body: bytes | memoryview, most: int) -> dict[str, Any]:
    """Return the header of safetensors: name → dtype, shape and offsets, as stated.

    Args:
        body: Untrusted safetensors.
        most: The most bytes of the header.

    Raises:
        UpdateError: If it is longer, or not a JSON object without duplicate keys.
    """
    return stated(body, no_tensors, most)


def no_tensors(reason: str) -> UpdateError:
    """Return the error for bytes that are no safetensors."""
    return UpdateError(f"expected safetensors; {short(reason)}", "malformed")


def no_header(reason: str) -> UpdateError:
    """Return the error for bytes that are no header."""
    return UpdateError(f"{reason} in the header", "malformed")


def check_correction(correction: Mapping[str, Tensor], adapter: Adapter, allocation: Allocation) -> None:
    """Check that a correction is of tensors that train, in their shapes, and finite.

    Args:
        correction: By name.
        adapter: Of the task.
        allocation: Of the task.

    Raises:
        ValueError: If it is not.
    """
    trained = adapter.names(allocation)
    for name, value in correction.items():
        if name not in trained or value.shape != adapter.tensors[name].shape or not bool(value.isfinite().all()):
            raise ValueError(f"a correction of {name}, which is not a trained tensor")
