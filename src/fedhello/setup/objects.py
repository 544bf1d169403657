"""What a program hands over instead of names, and what its configuration then says."""

import json
from collections.abc import Mapping
from typing import Any

from fedhello.config.read import Overrides, Source, load_config, raw_of, words_of
from fedhello.config.schema import Config
from fedhello.config.text import yaml_line
from fedhello.data.dataset import HeldOut
from fedhello.data.memory import MEMORY, is_per_client, memory_source
from fedhello.errors import ConfigError
from fedhello.methods import Method
from fedhello.plugins import register_method
from fedhello.setup.model import Objects

STAND_IN = {"tiers": [{"share": 1, "blocks": 1, "rank": 1}]}
"""Tiers that suit every method: those of a comparison are translated for each before they are checked."""


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
    """Return overrides by which a configuration says what is handed over, and that itself.

    Args:
        config: The configuration.
        overrides: Of it, which come first.
        model: As ``fedhello.prepare`` takes it, like all that follow.
        processor: Likewise.
        data: Likewise.
        validation: Likewise.
        test: Likewise.
        method: Likewise; it is registered.

    Raises:
        ConfigError: If something is handed over without what it belongs to.
        DataError: If the data are no data set.
    """
    words = words_of(overrides)
    if method is not None:
        register_method(method)
        stated = raw_of(config).get("method")
        if isinstance(stated, Mapping) and stated.get("name", method.name) != method.name:
            words.insert(0, "method={}")  # the options beside another method's name are that one's
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
    """Return a configuration that says what is handed over, and that itself; see ``words_of_objects``."""
    words, given = words_of_objects(config, overrides, **objects)
    return load_config(config, words), given


def given_held_out(data: Any, validation: Any, test: Any) -> dict[HeldOut, Any]:
    """Return what is handed over for the server to keep.

    Raises:
        ConfigError: If there is something without data beside it.
    """
    asked: dict[HeldOut, Any] = {"validation": validation, "test": test}
    found = {part: one for part, one in asked.items() if one is not None}
    if data is None and found:
        raise ConfigError("expected data beside validation or test in memory; found none. Hand them over together.")
    return found


def check_processor(model: Any, processor: Any) -> None:
    """Check that a processor comes with its model.

    Raises:
        ConfigError: If not.
    """
    if model is None and processor is not None:
        raise ConfigError("expected a model beside the processor; found none. Hand over both, or neither.")
