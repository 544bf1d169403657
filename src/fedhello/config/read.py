"""A configuration from wherever a program has it: a file, mappings, another one; and overrides."""

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
"""A YAML file, nested mappings, or a configuration; None is the embedded demo."""


Overrides = Mapping[str, Any] | Sequence[str]
"""Dotted keys with their values, ``{"train.rounds": 5}``, or as the command line has them, ``["train.rounds=5"]``."""


def load_config(source: Source = None, overrides: Overrides = ()) -> Config:
    """Return a checked configuration.

    Args:
        source: Where it comes from.
        overrides: What is to be otherwise; later ones win.

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
    """Return the sections of a configuration as they are stated, unchecked; the caller may change them.

    Raises:
        ConfigError: If the file cannot be read, or it is no configuration.
    """
    if source is None:
        return {}
    if isinstance(source, (str, Path)):
        return read_file(Path(source))
    if isinstance(source, Config):
        return source.model_dump(mode="json")
    if isinstance(source, Mapping):
        return _copy(source)
    raise ConfigError(f"expected a file, mappings or a Config as configuration; found a {type(source).__name__}")


def words_of(overrides: Overrides) -> list[str]:
    """Return overrides as the command line has them."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    words = []
    for key, value in overrides.items():
        try:
            words.append(f"{key}={yaml_line(_plain(value))}")
        except yaml.YAMLError as error:
            raise ConfigError(
                f"expected a value of {key} that YAML can hold; found a {type(value).__name__}"
            ) from error
    return words


def _plain(value: Any) -> Any:
    """Return a value without what YAML does not know: paths, and numbers of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
