"""Overrides of a configuration: ``a.b=c``, with values as in a file."""

from collections.abc import Iterable
from typing import Any

from fedhello.config.text import MOST_LEVELS, read_value
from fedhello.config.typed import is_nothing
from fedhello.errors import ConfigError


def override(raw: dict[str, Any], words: Iterable[str]) -> None:
    """Set keys from overrides such as ``train.rounds=5``; later ones win. A mapping takes the place of a section.

    Args:
        raw: Sections as ``read_yaml`` returns them; changed.
        words: The overrides.

    Raises:
        ConfigError: If one does not name a key of a section, or has no value.
    """
    for word in words:
        keys, value = parsed(word)
        _set(raw, keys, value)


def parsed(word: str) -> tuple[list[str], Any]:
    """Return the keys and the value of an override.

    Raises:
        ConfigError: If it has no key or no value.
    """
    dotted, equals, value = word.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys) or len(keys) > MOST_LEVELS:
        raise ConfigError(f"expected an override such as train.rounds=5; found {_short(word)!r}")
    if not value.strip():
        raise ConfigError(
            f"expected a value in the override {word!r}; found none. Write {dotted.strip()}=null for no value, "
            f"{dotted.strip()}='\"\"' for an empty text, or leave it out."
        )
    return keys, read_value(value, f"the override {_short(word)!r}")


def key_of(word: str) -> str:
    """Return the dotted key of an override, without spaces."""
    return ".".join(key.strip() for key in word.partition("=")[0].split("."))


def _short(word: str) -> str:
    return word if len(word) <= 100 else word[:99] + "…"


def _set(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set one key, and make the sections above it."""
    if any(key.isdecimal() for key in keys):
        raise ConfigError(
            f"expected a key of a section; found {'.'.join(keys)}. A list is given as a whole: "
            "'clients.tiers=[{share: 1/2, blocks: 2}, {share: 1/2, blocks: 4}]'."
        )
    for i, section in enumerate(keys[:-1]):
        inner = raw.pop(section, None)  # a key that stays would keep its line in the file
        if not is_nothing(inner) and not isinstance(inner, dict):
            raise ConfigError(
                f"expected {'.'.join(keys)} to name a key of a section; {'.'.join(keys[: i + 1])} is {inner!s:.60}."
            )
        raw[section] = raw = dict(inner) if isinstance(inner, dict) else {}
    raw.pop(keys[-1], None)
    raw[keys[-1]] = value
