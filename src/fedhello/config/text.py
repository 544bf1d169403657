"""Read and write configurations as YAML text."""

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from fedhello.errors import ConfigError


class YamlLoader(yaml.SafeLoader):
    """A YAML loader that reads 5e-4 as a number."""


class YamlDumper(yaml.SafeDumper):
    """A YAML dumper that quotes strings which ``YamlLoader`` would read as numbers."""


EXPONENT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
"""Floating-point numbers, including forms that PyYAML's default loader reads as text."""

for _kind in (YamlLoader, YamlDumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def yaml_line(value: object) -> str:
    """Return a value as one line of YAML; reading it gives the same value."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # YAML's own writer would break the line
    dumped = yaml.dump(
        value, Dumper=YamlDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return dumped.removesuffix("...\n").strip()


def read_yaml(text: str, where: str) -> Any:
    """Return the value of YAML text; ``where`` names the text in the error.

    Raises:
        ConfigError: If it is not YAML.
    """
    try:
        return yaml.load(text, YamlLoader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML does not catch the ValueError of an impossible date
        raise ConfigError(f"expected valid YAML in {where}; found {' '.join(str(error).split())}") from error


def read_file(path: Path) -> dict[str, Any]:
    """Return the sections of a configuration file; empty for an empty file.

    Raises:
        ConfigError: If it cannot be read, or does not hold sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"expected a configuration file at {path}; it cannot be read: {error}") from error
    raw = read_yaml(text, str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"expected {path} to hold sections such as model: and data:; found a {type(raw).__name__}")
    return raw


def set_key(raw: dict[str, Any], override: str) -> None:
    """Set one key from an override such as ``train.rounds=5``.

    Raises:
        ConfigError: If it does not name a key of a section, or its value is not YAML.
    """
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"expected an override such as train.rounds=5; found {override!r}")
    *sections, key = dotted.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"expected {dotted} to name a key of a section; {section} is a {type(raw).__name__}")
    raw[key] = read_yaml(value, f"the override {override!r}")
