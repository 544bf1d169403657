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
from fedhello.config.text import set_key, yaml_line
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
    words = words_of(overrides)
    if source is not None and not isinstance(source, (str, Path, Mapping, Config)):
        raise ConfigError(f"expected a file, mappings or a Config as configuration; found a {type(source).__name__}")
    if isinstance(source, (str, Path)) or source is None:
        return load.load_config(None if source is None else Path(source), words)
    raw = source.model_dump(mode="json") if isinstance(source, Config) else _copy(source)
    for word in words:
        set_key(raw, word)
    load.import_named(raw)
    return parse_config(raw)


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


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
