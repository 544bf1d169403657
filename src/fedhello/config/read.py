"""Read a configuration from a file, mappings or a ``Config``, and apply overrides."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedhello.config import load
from fedhello.config.load import parse_config
from fedhello.config.schema import Config
from fedhello.config.text import read_file, set_key, yaml_line
from fedhello.errors import ConfigError

Source = str | Path | Mapping[str, Any] | Config | None
"""A YAML file, nested mappings, or a ``Config``; None is the embedded demo."""


Overrides = Mapping[str, Any] | Sequence[str]
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
    raw = raw_of(source)
    for word in words_of(overrides):
        set_key(raw, word)
    load.import_named(raw)
    return parse_config(raw)


def raw_of(source: Source) -> dict[str, Any]:
    """Return the sections of a configuration as given, unchecked; a copy that the caller may change.

    Raises:
        ConfigError: If the file cannot be read, or is not a configuration.
    """
    if source is None:
        return {}
    if isinstance(source, (str, Path)):
        return read_file(Path(source))
    if isinstance(source, Config):
        return source.model_dump(mode="json")
    if isinstance(source, Mapping):
        return _copy(source)
    raise ConfigError(f"expected a file, mappings or a Config as the configuration; found a {type(source).__name__}")


def words_of(overrides: Overrides) -> list[str]:
    """Return overrides in the command line's form, ``a.b=c``."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    words = []
    for key, value in overrides.items():
        try:
            words.append(f"{key}={yaml_line(_plain(value))}")
        except yaml.YAMLError as error:
            raise ConfigError(
                f"expected a value of {key} that YAML can represent; found a {type(value).__name__}"
            ) from error
    return words


def _plain(value: Any) -> Any:
    """Return a value with paths and numpy numbers converted to types that YAML can represent."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
