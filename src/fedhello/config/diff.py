"""Differences between configurations."""

from collections.abc import Iterable, Sequence
from typing import Any

from fedhello.config.load import IRRELEVANT
from fedhello.config.schema import Config
from fedhello.formatting import flatten

ENDING = ("train.stop", "train.target")
"""Keys that say when a run ends, and change nothing of its rounds."""

WITHOUT_END = ("constant", "exponential", "published")
"""Learning-rate schedules in which no round's rate depends on the number of rounds."""


def irrelevant(config: Config) -> tuple[str, ...]:
    """Return the dotted keys that may change when a run is resumed, since they do not affect its rounds."""
    # Of clients that share a pass, the masks of dropout depend on which do.
    keys = tuple(key for key in IRRELEVANT if key != "run.workers" or config.run.engine != "batched")
    more = ("train.rounds",) if config.train.lr_schedule in WITHOUT_END else ()
    return (*keys, *ENDING, *more)


def relevant(config: Config) -> dict[str, Any]:
    """Return the keys and values that affect a result, JSON-ready."""
    plain = config.model_dump(mode="json")
    for key in irrelevant(config):
        section, name = key.split(".")
        del plain[section][name]
    return plain


OWN_KEYS = ("run.seed", *IRRELEVANT)
"""Keys in which runs of one method may differ: the seed, and the keys that do not affect a result."""


def differing(configs: Iterable[Config], ignored: Sequence[str] = OWN_KEYS) -> dict[str, list[Any]]:
    """Return each dotted key in which configurations differ, with its value in every configuration."""
    flat = [flatten(config.model_dump(mode="json"), ".") for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = {key: [one.get(key) for one in flat] for key in keys if not is_below(key, ignored)}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def is_below(key: str, sections: Sequence[str]) -> bool:
    """Return whether a dotted key equals one of the sections or lies below one."""
    return any(key == section or key.startswith(section + ".") for section in sections)
