"""Types of configuration values: shares, bytes, speeds, templates and names."""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    PlainSerializer,
    TypeAdapter,
)

from fedhello.data.columns import placeholders
from fedhello.errors import ConfigError


def as_share(value: object) -> object:
    """Read a share such as 1/3, 0.25, 20% or 1."""
    if not isinstance(value, str):
        return value
    if not _SHARE.fullmatch(value.strip()):
        raise ValueError("a share is a number such as 0.25, 1/3 or 20%")
    number, percent, _ = value.partition("%")
    try:
        return float(Fraction(number.replace(" ", "")) / (100 if percent else 1))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("a share is a number such as 0.25, 1/3 or 20%") from None


_SHARE = re.compile(r"[0-9]{1,9} ?/ ?[0-9]{1,9}|([0-9]{1,9}(\.[0-9]{0,99})?|\.[0-9]{1,99})( ?%)?")


Share = Annotated[float, BeforeValidator(as_share)]
"""A share, also written as 1/3 or 20%; its bounds are its key's."""


def _bytes(value: object) -> object:
    """Read bytes with a unit: 300MB and 300 MB are 300·10⁶, 300MiB is 300·2²⁰."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*[kmgt]?i?b\s*", value, re.IGNORECASE):
        return int(TypeAdapter(ByteSize).validate_python("".join(value.split())))
    raise ValueError("bytes are a number above 0 with a unit, such as 300MB, 300 MB or 300MiB")


def _flops(value: object) -> object:
    """Read a speed: 40GFLOP/s or 40 GFLOPS is 40·10⁹."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)flop(?:s|/s)\s*", value, re.IGNORECASE)
        if found:
            return float(found[1]) * 1000.0 ** " kmgtp".index(found[2].lower() or " ")
    raise ValueError("a speed is a number above 0 with a unit, such as 40GFLOP/s")


Bytes = Annotated[
    int, BeforeValidator(_bytes), Field(gt=0), PlainSerializer(lambda count: f"{count}B", when_used="unless-none")
]


Speed = Annotated[
    float,
    BeforeValidator(_flops),
    Field(gt=0),
    PlainSerializer(lambda speed: f"{speed:.0f}FLOP/s", when_used="unless-none"),
]


def only(accepts: Callable[[Any], bool], sentence: str) -> BeforeValidator:
    """Return a validator that reports one sentence; pydantic would report one error per member of a union."""

    def validated(value: object) -> object:
        if not accepts(value):
            raise ValueError(sentence)
        return value

    return BeforeValidator(validated)


Shrinkage = Annotated[
    Literal["auto"] | float,
    only(
        lambda value: value == "auto" or (type(value) in (int, float) and 0 < value <= 1),
        "expected auto, or a number above 0 and at most 1",
    ),
]


Rounds = Annotated[
    Literal["never"] | int,
    only(
        lambda value: value == "never" or (type(value) is int and value >= 1), "expected never, or a number of rounds"
    ),
]


Rate = Annotated[
    Literal["auto"] | float,
    only(
        lambda value: value == "auto" or (type(value) in (int, float) and value > 0 and math.isfinite(value)),
        "expected auto, or a number above 0",
    ),
]


def _template(value: object) -> object:
    """Check a template; YAML reads a template that is only a column in braces as a mapping."""
    if isinstance(value, dict):
        raise ValueError("a template that is only one column is written without braces")
    if isinstance(value, str):
        try:
            placeholders(value)
        except ValueError as error:
            raise ValueError(f"a template has columns in braces, such as 'Question: {{question}}'; {error}") from None
    return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


Name = Annotated[str, Field(min_length=1)]


def _encoding(value: object) -> object:
    """Check that an encoding is known; some of Python's are of bytes, or of nothing."""
    if isinstance(value, str):
        try:
            known = "a".encode(value).decode(value) == "a"
        except (LookupError, ValueError):
            known = False
        if not known:
            raise ValueError("an encoding is one that Python knows, such as cp1252, latin-1, utf-16-le or gb18030")
    return value


Encoding = Annotated[str, BeforeValidator(_encoding)]


def check_encoding(name: str | None) -> None:
    """Check an encoding that is named outside a configuration, as ``data.encoding`` is checked there.

    Raises:
        ConfigError: If it is not known.
    """
    try:
        _encoding(name)
    except ValueError as error:
        raise ConfigError(f"encoding: {error} (found {name!r})") from error


Template = Annotated[str, BeforeValidator(_template), Field(min_length=1)]


TextColumns = Annotated[
    str | list[str],
    only(
        lambda value: _is_name(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_name, value))),
        "expected a column, or a list of two for pairs of texts",
    ),
]


def _share_or_name(value: object) -> object:
    """Read 1/5 and 20% as shares; other texts are names, also ./1/5."""
    return as_share(value) if isinstance(value, str) and _SHARE.fullmatch(value.strip()) else value


ShareOrName = Annotated[
    float | str,
    only(
        lambda value: _is_name(value) or (isinstance(value, float) and 0 < value < 1),
        "expected a share above 0 and below 1, or the name of a file or a split",
    ),
    BeforeValidator(_share_or_name),
]


CountOrName = Annotated[
    int | str,
    only(
        lambda value: _is_name(value) or (type(value) is int and value >= 0),
        "expected a number of samples, or a data set as data.name",
    ),
]
