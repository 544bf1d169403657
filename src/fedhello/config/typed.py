"""Read values by the type of their key: numbers are decimal, and what is text for a key stays as it is written."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel

from fedhello.config.partitions import OwnPartition
from fedhello.config.schema import Config, MethodConfig
from fedhello.config.text import MOST_LEVELS, Plain, Unread
from fedhello.data.partition import PARTITIONS
from fedhello.errors import ConfigError
from fedhello.methods import METHODS
from fedhello.strategy import options_model

WHOLE = re.compile(r"[-+]?[0-9]+")
DECIMAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
NULLS = ("~", "null", "Null", "NULL")
TRUTHS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
"""What YAML has for truth values; the words without true and false count only for keys that have truth values."""

SIMPLE = (str, int, float, bool, NoneType, list, dict)

MOST_DIGITS = 30
"""The longest whole number; no key needs one as long."""

PATHS = (
    "run.out", "run.cache_folder", "model.name", "model.adapter", "data.name", "data.validation", "data.test",
    "data.public",
)  # fmt: skip
"""Keys that may name a file or a folder."""


@dataclass(frozen=True)
class Accepted:
    """What a key accepts.

    Attributes:
        kinds: The types, with ``str`` if any text is accepted, not only some words; ``object`` for a key of any type.
        inner: The type of each element of a list or of each value of a mapping.
        models: The sections, of which there are several if they differ by kind.
        words: Whether some words are accepted.
    """

    kinds: frozenset[type]
    inner: Any = Any
    models: tuple[type[BaseModel], ...] = ()
    words: bool = False

    @property
    def section(self) -> bool:
        """Whether values are mappings, and nothing else."""
        return self.kinds == {dict} and not self.words

    @property
    def text(self) -> bool:
        """Whether a value in one piece is a text, unless it is null."""
        return self.kinds & {str, int, float, bool, object} == {str}


def accepted(annotation: Any) -> Accepted:
    """Return what a key of an annotated type accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return accepted(arguments[0])
    if origin in (Union, UnionType):
        return _either([accepted(part) for part in arguments])
    if origin is Literal:
        kinds = frozenset(type(value) for value in arguments)
        return Accepted(kinds - {str}, words=str in kinds)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Accepted(frozenset({dict}), arguments[1])
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return Accepted(frozenset({list}), arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Accepted(frozenset({dict}), models=(annotation,))
    if annotation is Path:
        return Accepted(frozenset({str}))
    return Accepted(frozenset({annotation if annotation in SIMPLE else object}))


def _either(parts: Sequence[Accepted]) -> Accepted:
    return Accepted(
        frozenset[type]().union(*(part.kinds for part in parts)),
        next((part.inner for part in parts if part.inner is not Any), Any),
        tuple(model for part in parts for model in part.models),
        any(part.words for part in parts),
    )


def by_type(raw: Mapping[Any, Any], root: type[BaseModel] = Config) -> dict[str, Any]:
    """Return sections with every value read by its key's type, and without sections that are empty.

    Args:
        raw: Sections as ``read_yaml`` returns them, or as a program has them, with paths and numpy numbers.
        root: What the sections are of.

    Raises:
        ConfigError: If a key is no text, a value is in quotes only in part, a number has too many digits, a text holds
            what no file can, or values are nested too deep.
    """
    return _mapping(raw, Accepted(frozenset({dict}), models=(root,)), "")


def _mapping(raw: Mapping[Any, Any], what: Accepted, key: str) -> dict[str, Any]:
    fields = _fields(raw, what.models)
    found = {}
    for name, value in raw.items():
        if not isinstance(name, str):
            where = f"below {key}" if key else "for the sections"
            raise ConfigError(f"expected texts as keys {where}; found one of type {type(name).__name__}.")
        inner = fields.get(name, accepted(what.inner))
        dotted = f"{key}.{name}" if key else str(name)
        if inner.section and is_nothing(value):
            continue  # an empty section is none
        found[_text(name, "each key")] = _value(value, inner, dotted)
    return found


def _fields(raw: Mapping[Any, Any], models: Sequence[type[BaseModel]]) -> dict[str, Accepted]:
    """Return what each key of a section accepts, with the options of its method or its kind of partition."""
    if not models:
        return {}
    kind, method = _named(raw, "kind", "pathological"), _named(raw, "name", MethodConfig().name)
    model = next(
        (m for m in models if kind in get_args(getattr(m.model_fields.get("kind"), "annotation", None))), models[-1]
    )
    fields = dict(model.model_fields)
    if model is MethodConfig and method in METHODS:
        fields |= METHODS[method].options.model_fields
    if model is OwnPartition and kind in PARTITIONS:
        fields |= options_model(kind, [PARTITIONS[kind]]).model_fields
    return {name: accepted(field.annotation) for name, field in fields.items()}


def _named(raw: Mapping[Any, Any], key: str, default: str) -> str:
    value = raw.get(key, default)
    return value if isinstance(value, str) else ""


def is_nothing(value: object) -> bool:
    """Whether a value is null or empty."""
    return value is None or (isinstance(value, Plain) and (value in NULLS or not value))


def _value(value: Any, what: Accepted, key: str) -> Any:
    """Return one value, read by what its key accepts."""
    value = _of_program(value)
    if key.count(".") > MOST_LEVELS:
        raise ConfigError(f"expected values nested at most {MOST_LEVELS} levels deep; found more below {key:.40}….")
    if isinstance(value, Plain):
        return _whole(_scalar(value, what, key), key, value.line)
    if isinstance(value, Unread):
        return _text(value.read(what.text), key)
    written = getattr(value, "written", None)
    if isinstance(value, Mapping):
        return _text(written, key) if what.text and written else _mapping(value, what, key)
    if isinstance(value, (list, tuple)):
        if what.text and list not in what.kinds and written and written[0] != "[":
            return _text(written, key)  # "- a", a list in YAML, is a text of a prompt; "[a]" may be meant as a list
        return [_value(one, accepted(what.inner), f"{key}.{i}") for i, one in enumerate(value)]
    return _whole(value, key)


def _of_program(value: Any) -> Any:
    """Return a value of a program, such as a path or a number of numpy, as a file has it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _scalar(value: Plain, what: Accepted, key: str) -> Any:
    """Return a value without quotes."""
    kinds = what.kinds
    if value == "~" and NoneType not in kinds and key in PATHS:
        return "~"
    if is_nothing(value) and not (what.text and value.written not in (None, value)):
        return None
    numbers = object in kinds or float in kinds or (int in kinds and str in kinds)
    if (bool in kinds or (object in kinds and value.lower() in ("true", "false"))) and value.lower() in TRUTHS:
        return TRUTHS[value.lower()]
    if (numbers or int in kinds) and WHOLE.fullmatch(value):
        return int(value) if len(value) <= MOST_DIGITS else value
    if numbers and DECIMAL.fullmatch(value):
        return float(value)
    return str(value if value.written is None or not what.text else value.written)


def _whole(value: Any, key: str, line: int = 0) -> Any:
    """Return a value that is not too long and can be written to a file."""
    digits = len(value) if isinstance(value, Plain) else 0
    if digits or (isinstance(value, int) and abs(value) >= 10**MOST_DIGITS):
        raise ConfigError(
            f"expected {key} to have at most {MOST_DIGITS} digits; found {f'{digits:,}' if digits else 'more'}"
            f"{f' in line {line}' if line else ''}. Write a smaller number."
        )
    return _text(value, key) if isinstance(value, str) else value


def _text(value: str, key: str) -> str:
    """Return a text that can be written to a file."""
    odd = re.search("[\0\ud800-\udfff]", value)
    if odd:
        raise ConfigError(
            f"expected {key} to be a text; found U+{ord(odd[0]):04X} in it, which is no character. Remove it."
        )
    return str.__str__(value)


def with_paths(raw: dict[str, Any]) -> dict[str, Any]:
    """Return typed sections with ``~`` and ``$HOME`` expanded in the names of files and folders.

    What exists under a name as it is written is left so.

    Raises:
        ConfigError: If a name has a variable that the environment lacks.
    """
    raw = dict(raw)
    for dotted in PATHS:
        section, key = dotted.split(".")
        value = raw.get(section)
        if isinstance(value, dict) and isinstance(value.get(key), str):
            raw[section] = {**value, key: expanded(value[key], dotted)}
    return raw


def expanded(path: str, what: str) -> str:
    """Return a path with ``~`` and the variables of the environment filled in, unless it exists as it is written.

    Args:
        path: The path.
        what: What to call it in the error.

    Raises:
        ConfigError: If it has a variable that the environment lacks, or names the home of a user that there is not.
    """
    if not (path.startswith("~") or "$" in path) or os.path.lexists(path):
        return path
    found = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111, Path.expanduser raises for an unknown user
    lacking = re.search(r"\$(\w+|\{[^}]*\})", found) or re.match("~[^/]*", found)
    if lacking:
        raise ConfigError(
            f"expected {what} to be a path whose parts are known here; found {path!r}, and {lacking[0]} is not. Write "
            "the path itself."
        )
    return found
