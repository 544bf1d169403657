"""Parse methods and seeds given as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedhello.config.messages import sentence
from fedhello.errors import ConfigError
from fedhello.formatting import nearest
from fedhello.methods import METHODS
from fedhello.plugins import find_method
from fedhello.results.comparison import label_of


@dataclass(frozen=True)
class AskedMethod:
    """A method with options, parsed from text.

    Attributes:
        label: The label of its runs.
        name: The name in the table of methods.
        options: The given options.
    """

    label: str
    name: str
    options: Mapping[str, Any]


def asked_methods(text: str) -> list[AskedMethod]:
    """Return methods from text such as ``fed-hello,gd-hla:pattern=triangle:tier_weighting=clients``.

    Raises:
        ConfigError: If no method is given, a method is unknown, or an option is wrong.
    """
    return [_asked_method(words) for words in _listed(text, "methods", "fed-hello,gd-hla")]


def asked_seeds(text: str) -> list[int]:
    """Return seeds from text such as ``0,1,2``.

    Raises:
        ConfigError: If no seed is given, or a seed is negative, not an integer, or given twice.
    """
    words = _listed(text, "seeds", "0,1,2")
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong:
        raise ConfigError(f"expected seeds to be integers of at least 0, such as 0,1,2; found {wrong[0]!r}")
    seeds = [int(word) for word in words]
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise ConfigError(f"expected every seed once; found {twice[0]} more than once")
    return seeds


def _listed(text: str, option: str, example: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ConfigError(f"expected {option} to be a list such as {example}; found {text!r}, with an empty entry")
    return words


def _asked_method(words: str) -> AskedMethod:
    name, *given = words.split(":")
    if name not in METHODS and given and "=" not in given[0]:  # package.module:attribute, and its options
        name = f"{name}:{given.pop(0)}"
    find_method(name)
    if name not in METHODS:
        raise ConfigError(
            f"expected methods to name some of {', '.join(METHODS)}; found {name!r}" + nearest(name, METHODS)
        )
    pairs = [option.partition("=") for option in given]
    if not all(key and equals for key, equals, _ in pairs):
        raise ConfigError(f"expected a method's options such as {name}:pattern=triangle; found {words!r}")
    options = METHODS[name].options
    try:
        read = options.model_validate_strings({key: value for key, _, value in pairs})
    except ValidationError as error:
        raise ConfigError(sentence(error, options, f"method ({name}).")) from error
    return AskedMethod(label_of(words), name, read.model_dump(exclude_unset=True))
