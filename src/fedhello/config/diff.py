"""What differs between configurations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedhello.config.load import IRRELEVANT
from fedhello.config.schema import Config


def flatten(value: Any, separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Return every number, text, truth value and None in nested mappings and lists, under the path to it.

    Example:
        >>> flatten({"tiers": [{"share": 0.5}], "seed": 0})
        {'tiers/0/share': 0.5, 'seed': 0}
    """
    if isinstance(value, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, (list, tuple)):
        items = iter(enumerate(value))
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flatten(inner, separator, f"{prefix}{separator}{key}" if prefix else str(key))
    return flat


OWN_KEYS = ("run.seed", *IRRELEVANT)
"""What runs of one method may differ in: the seed, and what has no influence on a result."""


def differing(configs: Iterable[Config], ignored: Sequence[str] = OWN_KEYS) -> dict[str, list[Any]]:
    """Return the dotted keys in which configurations differ, each with every configuration's value."""
    flat = [flatten(config.model_dump(mode="json"), ".") for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = {key: [one.get(key) for one in flat] for key in keys if not is_below(key, ignored)}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def is_below(key: str, sections: Sequence[str]) -> bool:
    """Return whether a dotted key is one of some sections or lies in one."""
    return any(key == section or key.startswith(section + ".") for section in sections)
