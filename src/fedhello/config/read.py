"""Read a configuration from a file, mappings or a ``Config``, and apply overrides."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedhello.config.load import resolved
from fedhello.config.schema import Config
from fedhello.config.text import MOST_LEVELS, read_file, yaml_line
from fedhello.config.typed import MOST_DIGITS, expanded
from fedhello.errors import ConfigError

Source = str | Path | Mapping[str, Any] | Config | None
"""A YAML file, nested mappings, or a ``Config``; None is the embedded demo."""


Overrides = Mapping[str, Any] | Sequence[str] | None
"""Dotted keys with their values, ``{"train.rounds": 5}``, or the command line's form, ``["train.rounds=5"]``."""


def load_config(source: Source = None, overrides: Overrides = ()) -> Config:
    """Return a checked configuration.

    Args:
        source: A YAML file, nested mappings or a ``Config``; None takes the defaults, the embedded demo.
        overrides: Dotted keys with new values; later ones win.

    Raises:
        ConfigError: If the file cannot be read, or a key, type or value is wrong.

    Example:
        >>> load_config(None, {"train.rounds": 5}).train.rounds
        5
    """
    return resolved(raw_of(source), words_of(overrides), _path(source) if isinstance(source, (str, Path)) else None)


def raw_of(source: Source) -> dict[str, Any]:
    """Return the sections of a configuration as given, unchecked; a copy that the caller may change.

    Raises:
        ConfigError: If the file cannot be read, or is not a configuration.
    """
    if source is None:
        return {}
    if isinstance(source, (str, Path)):
        return read_file(_path(source))
    if isinstance(source, Config):
        return source.model_dump(mode="json")
    if isinstance(source, Mapping):
        return _copy(source)
    raise ConfigError(f"expected a file, mappings or a Config as the configuration; found a {type(source).__name__}")


def _path(source: str | Path) -> Path:
    return Path(expanded(str(source), "the configuration file"))


def words_of(overrides: Overrides) -> list[str]:
    """Return overrides in the command line's form, ``a.b=c``.

    Raises:
        ConfigError: If they are no overrides, or YAML cannot represent a value.
    """
    if not isinstance(overrides, Mapping):
        words = [overrides] if isinstance(overrides, str) else list(overrides or ())
        if isinstance(overrides, str) or not all(isinstance(word, str) for word in words):
            raise ConfigError(
                f"expected overrides such as {{'train.rounds': 5}} or ['train.rounds=5']; found {overrides!r:.60}"
            )
        return words
    words = []
    for key, value in overrides.items():
        try:
            words.append(f"{key}={yaml_line(_plain(value, str(key)))}")
        except yaml.YAMLError as error:
            raise ConfigError(
                f"expected a value of {key} that YAML can represent; found a {type(value).__name__}"
            ) from error
    return words


def _plain(value: Any, key: str, level: int = 0) -> Any:
    """Return a value with paths, numpy's values and mappings converted to types that YAML can represent."""
    if level > MOST_LEVELS:
        raise ConfigError(f"expected values of {key} nested at most {MOST_LEVELS} levels deep; found more.")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {inner: _plain(one, key, level + 1) for inner, one in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(one, key, level + 1) for one in value]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        raise ConfigError(f"expected {key} to have at most {MOST_DIGITS} digits; found more. Write a smaller number.")
    return value.item() if isinstance(value, np.generic) else value


def _copy(mapping: Mapping[str, Any], level: int = 0) -> dict[str, Any]:
    if level > MOST_LEVELS:
        raise ConfigError(f"expected mappings nested at most {MOST_LEVELS} levels deep; found more.")
    return {key: _copy(one, level + 1) if isinstance(one, Mapping) else one for key, one in mapping.items()}
