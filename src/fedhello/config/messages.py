"""Turn pydantic's validation errors into one sentence: the key, the value found and, if misspelt, the nearest key."""

from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fedhello.config.text import EXPONENT
from fedhello.formatting import nearest


def sentence(error: ValidationError, root: type[BaseModel], prefix: str) -> str:
    """Return pydantic's first error as one sentence, with the number of further errors."""
    complaints = error.errors(include_url=False)
    # A misspelt key often also leaves a required one missing; the misspelling is the more useful message.
    first = next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])
    # A discriminated union puts the chosen tag into the location; the user did not write it there.
    keys, valid, below = _locate(first["loc"], root)
    dotted = prefix + ".".join(keys)
    if first["type"] == "extra_forbidden":
        text = f"unknown key {dotted}" + nearest(keys[-1] if keys else "", valid) + f" Valid keys: {', '.join(valid)}."
    elif first["type"] in ("model_type", "model_attributes_type") and below:
        text = f"{dotted}: expected keys below it, such as {dotted}.{below[0]}; found {first['input']!r}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        value = first["input"]
        found = f" (found {value!r}{_why_text(value)})" if isinstance(value, (str, int, float, bool)) else ""
        text = f"{dotted}: {message}{found}" if dotted else message
    more = f" ({len(complaints) - 1} more problems)" if len(complaints) > 1 else ""
    return text + more


def _why_text(value: object) -> str:
    """Return why a number became text, to be added to the message; empty if it did not."""
    if not isinstance(value, str) or not EXPONENT.match(value):
        return ""
    return ", which yaml.safe_load reads as text; pass the file's path, or write it with a point and a sign: 1.0e-2"


def _locate(location: Sequence[int | str], root: type[BaseModel]) -> tuple[list[str], list[str], list[str]]:
    """Return the keys that the user wrote, the valid keys at the level of the last one, and those below it."""
    keys: list[str] = []
    kind: Any = root
    valid: list[str] = []
    for part in location:
        members = {next(iter(get_args(m.model_fields["kind"].annotation)), "own"): m for m in _union_members(kind)}
        if part in members:
            kind = members[part]
            continue
        if isinstance(part, str) and "[" in part:  # a member of another union, or "[key]"
            continue
        keys.append(str(part))
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            valid = list(kind.model_fields)
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
    inner = next(iter(_union_members(kind)), kind)
    below = list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else []
    return keys, valid, below


def _union_members(kind: Any) -> list[type[BaseModel]]:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    members = get_args(kind) if get_origin(kind) is Union or type(kind).__name__ == "UnionType" else ()
    bare = [get_args(m)[0] if get_origin(m) is Annotated else m for m in members]
    return [m for m in bare if isinstance(m, type) and issubclass(m, BaseModel) and "kind" in m.model_fields]
