"""Objects that a program passes instead of names, and the configuration keys that follow from them."""

import json
from collections.abc import Mapping
from typing import Any

from fedhello.config.read import Overrides, Source, load_config, raw_of, words_of
from fedhello.config.schema import Config
from fedhello.config.text import yaml_line
from fedhello.data.dataset import HeldOut
from fedhello.data.memory import MEMORY, is_per_client, memory_source
from fedhello.errors import ConfigError
from fedhello.method import Method
from fedhello.plugins import register_method
from fedhello.setup.model import Objects

STAND_IN = {"tiers": [{"share": 1, "blocks": 1, "rank": 1}]}
"""Tiers that fit every method: those of a comparison are translated for each method before they are checked."""


def words_of_objects(
    config: Source,
    overrides: Overrides,
    *,
    model: Any = None,
    processor: Any = None,
    data: Any = None,
    validation: Any = None,
    test: Any = None,
    method: Method | None = None,
) -> tuple[list[str], Objects]:
    """Return overrides that describe the passed objects in a configuration, and the objects.

    Args:
        config: The configuration.
        overrides: Overrides of it, which come first.
        model: See ``fedhello.prepare``.
        processor: See ``fedhello.prepare``.
        data: See ``fedhello.prepare``.
        validation: See ``fedhello.prepare``.
        test: See ``fedhello.prepare``.
        method: See ``fedhello.prepare``; it is registered.

    Raises:
        ConfigError: If validation or test data come without data, or a processor without a model.
        DataError: If the data are not a data set.
    """
    words = words_of(overrides)
    if method is not None:
        register_method(method)
        stated = raw_of(config).get("method")
        if isinstance(stated, Mapping) and stated.get("name", method.name) != method.name:
            words.insert(0, "method={}")  # the configured options belong to another method
        words.append(f"method.name={yaml_line(method.name)}")
    if model is not None:
        words.append(f"model.name={MEMORY}")
    held_out = given_held_out(data, validation, test)
    check_processor(model, processor)
    if data is None:
        return words, Objects(model, processor)
    many = is_per_client(data)
    words += [f"data.name={MEMORY}", *(f"data.{part}={part}" for part in held_out)]
    words += ["data.partition={kind: files}", f"data.clients={len(data)}"] if many else []
    columns = load_config(config, [*words, f"clients={json.dumps(STAND_IN)}"]).data.columns
    return words, Objects(model, processor, memory_source(data, columns, held_out))


def with_objects(config: Source, overrides: Overrides, **objects: Any) -> tuple[Config, Objects]:
    """Return a configuration that describes the passed objects, and the objects; see ``words_of_objects``."""
    words, given = words_of_objects(config, overrides, **objects)
    return load_config(config, words), given


def given_held_out(data: Any, validation: Any, test: Any) -> dict[HeldOut, Any]:
    """Return the passed validation and test data.

    Raises:
        ConfigError: If they come without data.
    """
    asked: dict[HeldOut, Any] = {"validation": validation, "test": test}
    found = {part: one for part, one in asked.items() if one is not None}
    if data is None and found:
        raise ConfigError("expected data with validation or test data in memory; found none. Pass them together.")
    return found


def check_processor(model: Any, processor: Any) -> None:
    """Check that a processor comes with its model.

    Raises:
        ConfigError: If it comes without a model.
    """
    if model is None and processor is not None:
        raise ConfigError("expected a model with the processor; found none. Pass both, or neither.")
