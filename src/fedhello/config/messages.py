"""Turn pydantic's validation errors into one sentence: the key, the value found, its line, and what would be right."""

import functools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedhello.config.other_words import called_here
from fedhello.config.schema import Config, MethodConfig
from fedhello.config.section import MOST
from fedhello.config.text import EXPONENT, Plain, yaml_line
from fedhello.config.typed import DECIMAL, accepted
from fedhello.formatting import close_to
from fedhello.methods import METHODS

WRONG_TYPES = ("int_type", "float_type", "bool_type", "string_type", "list_type", "int_from_float")
"""Pydantic's names for values of a wrong type."""


class Written(NamedTuple):
    """What was read, with the lines of unquoted keys and values, and the file that it was read from."""

    raw: Any
    file: Path | None

    def place(self, keys: Sequence[str]) -> str:
        """Return where the value of some keys is written, " in line 3 of my.yaml"; empty if no file has it."""
        found, line = self.raw, 0
        for key in keys:
            if isinstance(found, Mapping):
                line = next((getattr(one, "line", 0) for one in found if one == key), 0)
                found = found.get(key)
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                return ""
            line = found.line or line if isinstance(found, Plain) else line
        return f" in line {line} of {self.file}" if self.file is not None and line else ""


NOT_WRITTEN = Written({}, None)


class _Located(NamedTuple):
    """Where pydantic found an error: the keys, the valid ones beside the last, those below it, its type and default."""

    keys: list[str]
    valid: list[str]
    below: list[str]
    kind: Any
    default: Any


def sentence(error: ValidationError, root: type[BaseModel], prefix: str, written: Written = NOT_WRITTEN) -> str:
    """Return pydantic's first error as one sentence, with the number of further errors.

    Args:
        error: Pydantic's.
        root: The section that it checked.
        prefix: What the section's keys are below, such as ``method (fed-hello).``.
        written: What was read.
    """
    complaints = error.errors(include_url=False)
    # A misspelt key often also leaves a required one missing; the misspelling is the more useful message.
    first = next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])
    at = _locate(first["loc"], root)
    dotted = prefix + ".".join(at.keys)
    path = [*prefix.partition(" ")[0].split("."), *at.keys] if prefix else at.keys
    place = written.place(path)
    if first["type"] == "extra_forbidden":
        text = f"unknown key {dotted}{_meant(at.keys, at.valid, root)} Valid keys: {', '.join(at.valid)}."
        text += f" It is{place}." if place else ""
    elif first["type"] in ("model_type", "model_attributes_type") and at.below:
        text = f"{dotted}: expected keys below it, such as {dotted}.{at.below[0]}; found {first['input']!r}{place}"
    else:
        others = _alternatives(first, complaints)
        complaints = [complaint for complaint in complaints if complaint not in others]
        message = ", or ".join([first["msg"].removeprefix("Value error, "), *map(_alternative, others)])
        message = message[0].lower() + message[1:]
        wrong = first["type"] in WRONG_TYPES
        shown = isinstance(first["input"], (str, int, float, bool)) or wrong
        found = f" (found {_short(first['input'])}{_why_text(first['input'], at.kind)}{place})" if shown else ""
        text = f"{dotted}: {message}{found}" if dotted else message
        if wrong or (first["type"] == "value_error" and not at.below):
            text += _right(".".join(path), at, first["input"], root, wrong)
        if any(other["type"] == "list_type" for other in others) and isinstance(first["input"], str):
            text += f". Write, for example: {shlex.quote('.'.join(path) + '=' + yaml_line([first['input']]))}"
    more = f" ({len(complaints) - 1} more problems)" if len(complaints) > 1 else ""
    return text + more


def _alternatives(first: ErrorDetails, complaints: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the complaints of a key's other types, of which one is enough, if the first is of its words."""
    *key, tag = first["loc"] or ("",)
    if not str(tag).startswith("literal["):
        return []
    return [c for c in complaints if c is not first and len(c["loc"]) == len(key) + 1 and [*c["loc"][:-1]] == key]


def _alternative(complaint: ErrorDetails) -> str:
    message = complaint["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = (
        message.replace("List should have", "a list of").partition(", unable")[0].partition(" after validation")[0]
    )
    return message[0].lower() + message[1:]


def _why_text(value: object, kind: Any) -> str:
    """Return why a number is text, to be added to the message; empty if it is none, or only whole ones are accepted."""
    if not isinstance(value, str) or not EXPONENT.match(value) or float not in accepted(kind).kinds:
        return ""
    return ", which yaml.safe_load reads as text; pass the file's path, or write it with a point and a sign: 1.0e-2"


def _short(value: object) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 100 else f"{shown[:99]}…"


def _meant(keys: Sequence[str], valid: Sequence[str], root: type[BaseModel]) -> str:
    """Return the end of a sentence: the key that was probably meant, in this section or as it is called in another."""
    known = dict.fromkeys(_every_key()) if root is Config else {}
    *above, word = keys[-1].split(".")
    if above and ".".join(keys) in known:
        return f". In a file, write {': {'.join([*above, word])}: …{'}' * len(above)}."
    names = {name: [name] for name in valid}
    for other in known:
        names.setdefault(other.rpartition(".")[2], []).append(other)
    if known and word not in names and (other_words := called_here(word)):
        return f". Did you mean {' or '.join(other_words)}?"
    # A key of another section must be nearer. One that is known here is one of another kind of partition.
    name = close_to(word, names, alike=0.8) or close_to(word, valid)
    if name is None or ".".join(keys) in known:
        return "."
    return f". Did you mean {name if name in valid else ' or '.join(names[name][:3])}?"


def _every_key(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield every key of the configuration, with those of all methods and kinds of partition."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in accepted(field.annotation).models:
            yield from _every_key(inner, f"{prefix}{name}.")
    if model is MethodConfig:
        yield from (prefix + name for method in METHODS.values() for name in method.options.model_fields)


def _right(dotted: str, at: _Located, value: object, root: type[BaseModel], wrong_type: bool) -> str:
    """Return an override, or a line of a file, with a value that the key accepts; empty if none is known."""
    kinds = accepted(at.kind).kinds
    text = str(value).replace("_", "")
    if str in kinds and isinstance(value, (str, int, float)) and wrong_type:
        right: object = str(value)
    elif kinds & {int, float} and str not in kinds and (meant := _other_base(text)) is not None:
        right = meant
    elif wrong_type and int in kinds and DECIMAL.fullmatch(text) and (whole := _whole(text)) is not None:
        right = whole
    else:
        right = at.default
    scalars = right if isinstance(right, list) else [right]
    if not all(isinstance(one, (str, int, float)) for one in scalars) or any(key.isdecimal() for key in at.keys):
        return ""
    if root is not Config and not dotted.startswith(("method.", "data.partition.")):
        return f". Write, for example, {dotted}: {yaml_line(right)}"
    written = right if isinstance(right, str) and type(value) is not str else yaml_line(right)
    return f". Write, for example: {shlex.quote(f'{dotted}={written}')}"


def _whole(text: str) -> int | None:
    """Return the whole number that a decimal one equals, small enough for a key."""
    return int(float(text)) if len(text) < 20 and float(text).is_integer() and float(text) < MOST else None


def _other_base(text: str) -> int | None:
    """Return the number that YAML has for ``0x10``, ``0o17``, ``0b11`` or ``1:30``, small enough for a key."""
    found = None
    if re.fullmatch(r"[-+]?0(x[0-9a-f]+|o[0-7]+|b[01]+)", text, re.IGNORECASE):
        found = int(text, 0)
    elif re.fullmatch(r"[0-9]{1,9}(:[0-5]?[0-9]){1,4}", text):
        found = functools.reduce(lambda whole, part: 60 * whole + int(part), text.split(":"), 0)
    return found if found is not None and abs(found) < MOST else None


def _locate(location: Sequence[int | str], root: type[BaseModel]) -> _Located:
    """Return the keys that the user wrote, and what is known of the last one."""
    keys: list[str] = []
    kind: Any = root
    valid: list[str] = []
    default: Any = None
    for part in location:
        # A discriminated union puts the chosen tag into the location; the user did not write it there.
        members = {next(iter(get_args(m.model_fields["kind"].annotation)), "own"): m for m in _union_members(kind)}
        if part in members:
            kind = members[part]
            continue
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if isinstance(part, str) and "[" in part and not section:  # a member of another union, or "[key]"
            continue
        keys.append(str(part))
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
        elif section:
            valid = list(kind.model_fields)
            field = kind.model_fields.get(part)
            kind, default = (None, None) if field is None else (field.annotation, field.default)
    inner = next(iter(_union_members(kind)), kind)
    below = list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else []
    return _Located(keys, valid, below, kind, default)


def _union_members(kind: Any) -> list[type[BaseModel]]:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    members = get_args(kind) if get_origin(kind) is Union or type(kind).__name__ == "UnionType" else ()
    bare = [get_args(m)[0] if get_origin(m) is Annotated else m for m in members]
    return [m for m in bare if isinstance(m, type) and issubclass(m, BaseModel) and "kind" in m.model_fields]
