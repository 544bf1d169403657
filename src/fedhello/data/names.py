"""Names of classes, groups and columns: what looks the same is the same name, however it is written."""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np

_UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_AROUND = "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + _UNSEEN

HALF = re.compile("[\ud800-\udfff]")
"""Half of a character beyond 16 bits, as in JSON's ``"\\ud83d"``: no Unicode text, and no tokenizer takes it."""

WHOLE = re.compile(r"([+-]?\d+)(\.0+)?")
"""A whole number, perhaps with a fraction of zeros."""

MOST_SHOWN = 60
"""The most characters of a name in a message."""

_NO_VALUES = ("nan", "<na>", "nat")
_NO_TYPES = ("NAType", "NaTType")


def clean(name: str) -> str:
    """Return a name in Unicode's form NFC, without white space and invisible characters around it.

    Example:
        >>> clean(" cafe\u0301\u00a0") == "caf\u00e9"
        True
    """
    return unicodedata.normalize("NFC", name).strip(_AROUND)


def is_missing(value: object) -> bool:
    """Whether a cell has no value: None, NaN, or what pandas writes for it."""
    if isinstance(value, (float, np.floating)):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or type(value).__name__ in _NO_TYPES


def as_name(value: object) -> str | None:
    """Return a cell's value as a name; None if it is missing, and the empty text if it cannot be a name.

    Strings, integers, booleans and whole numbers can be names. A number is the name that it has as a string: ``1``,
    ``1.0`` and ``"1"`` are one.
    """
    if is_missing(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (int, float, np.integer, np.floating, Decimal)):
        whole = -(2**63) < value < 2**64 and value == int(value)
        return str(int(value)) if whole else ""
    if not isinstance(value, str):
        return ""
    name = clean(value)
    return None if not name or name.casefold() in _NO_VALUES else name


def shown(name: str) -> str:
    """Return a name in quotes for a message, cut if it is long."""
    return repr(name if len(name) <= MOST_SHOWN else name[:MOST_SHOWN] + "…")


def whole_names(names: Iterable[str]) -> dict[str, str]:
    """Return name → the integer that it is, if all are whole numbers and one has a fraction, as ``1.0``."""
    found = {name: WHOLE.fullmatch(name) for name in names}
    if not all(found.values()) or not any(match and match[2] for match in found.values()):
        return {}
    return {name: match[1] for name, match in found.items() if match}


def look_alikes(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of names that differ in case, in white space within or in compatible characters alone."""
    first: dict[str, str] = {}
    found = []
    for name in names:
        key = re.sub(f"[\\s{_UNSEEN}]+", " ", unicodedata.normalize("NFKC", name)).casefold()
        if first.setdefault(key, name) != name:
            found.append((first[key], name))
    return found


def rewritten(given: Sequence[object], names: Sequence[str], what: str) -> list[str]:
    """Return a note on names that are written otherwise than they are read, if there are any.

    Args:
        given: The cells.
        names: The names that they are read as.
        what: What they are, for the note.
    """
    changed = [(one, name) for one, name in zip(given, names, strict=True) if isinstance(one, str) and one != name]
    if not changed:
        return []
    written = list(dict.fromkeys(f"{one[:MOST_SHOWN]!a} as {shown(name)}" for one, name in changed))
    return [
        f"{len(changed)} of {len(names)} {what} are read without white space around them and in Unicode's form NFC: "
        + ", ".join(written[:5])
        + (f" and {len(written) - 5} others" if len(written) > 5 else "")
    ]
