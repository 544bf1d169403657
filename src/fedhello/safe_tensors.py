"""The one door for safetensors: bytes or a file come in, and tensors or an error of the caller's choice come out.

Safetensors begin with the length of a header, 8 bytes, little endian, and the header: JSON, name → dtype, shape and
offsets, and ``__metadata__``. Their own reader takes a name that is given twice, and raises exceptions of many kinds.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load, load_file
from torch import Tensor

Source = bytes | memoryview | Path
Refused = Callable[[str], Exception]
"""Makes the error to raise from the reason, one line."""

LONGEST = 100_000_000
"""The most bytes of a header that safetensors' own reader takes."""

METADATA = "__metadata__"
"""The entry of a header that is no tensor."""

_LENGTH = struct.Struct("<Q")
_SHOWN = 200


def read_tensors(source: Source, refused: Refused) -> dict[str, Tensor]:
    """Return the tensors by name, in the order of the header.

    Args:
        source: Untrusted safetensors.
        refused: See ``Refused``.
    """
    names = [name for name in stated(source, refused) if name != METADATA]
    try:
        found = load_file(source) if isinstance(source, Path) else load(bytes(source))
        return {name: found[name] for name in names}
    except Exception as error:  # safetensors documents none, and raises OSError, SafetensorError, KeyError and others
        raise refused(_reason(error)) from error


def read_shapes(file: Path, refused: Refused) -> dict[str, tuple[str, list[int]]]:
    """Return dtype, such as ``F32``, and shape of the tensors by name, without reading them; the file must be whole.

    Args:
        file: Untrusted safetensors.
        refused: See ``Refused``.
    """
    entries = stated(file, refused)
    try:
        with safe_open(file, "pt"):  # checks entries and offsets against the size of the file
            pass
    except Exception as error:  # as in read_tensors
        raise refused(_reason(error)) from error
    return {name: (entry["dtype"], entry["shape"]) for name, entry in entries.items() if name != METADATA}


def stated(source: Source, refused: Refused, most: int = LONGEST) -> dict[str, Any]:
    """Return the header: name → dtype, shape and offsets as stated, unchecked; and the metadata.

    Args:
        source: Untrusted safetensors.
        refused: See ``Refused``.
        most: The most bytes of the header.
    """
    try:
        length, text = _header(source, most)
    except OSError as error:
        raise refused(error.strerror or _reason(error)) from error
    if text is None:
        why = f"longer than {most} bytes" if length > most else "beyond their end"
        raise refused(f"found a stated header length of {length} bytes, which is {why}")
    return read_json(text, refused)


def _header(source: Source, most: int) -> tuple[int, bytes | None]:
    """Return the stated length of the header, −1 where there is none, and the header if it is there and not longer."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            size, begin = source.stat().st_size, file.read(_LENGTH.size)
            length = _LENGTH.unpack(begin)[0] if len(begin) == _LENGTH.size else -1
            return length, file.read(length) if 0 <= length <= min(most, size - _LENGTH.size) else None
    length = _LENGTH.unpack_from(source)[0] if len(source) >= _LENGTH.size else -1
    there = 0 <= length <= min(most, len(source) - _LENGTH.size)
    return length, bytes(source[_LENGTH.size : _LENGTH.size + length]) if there else None


def read_json(text: bytes, refused: Refused) -> dict[str, Any]:
    """Return a JSON object in UTF-8, without keys that are given twice, NaN or infinity.

    Args:
        text: Untrusted bytes.
        refused: See ``Refused``.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key comes twice")
        return found

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        found = json.loads(text.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise refused(f"expected JSON; {_reason(error)}") from error
    if not isinstance(found, dict):
        raise refused(f"expected a JSON object; found {type(found).__name__}")
    return found


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
