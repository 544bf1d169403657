"""Read the configuration in a run's folder, and override it to resume the run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedhello.config.choices import rate_of, with_choices
from fedhello.config.diff import differing, irrelevant
from fedhello.config.load import import_named, load_run_config
from fedhello.config.overrides import key_of
from fedhello.config.schema import Config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.methods import METHODS

FILE = "config.yaml"

ROUNDS, RATE = "train.rounds", "train.lr"
"""Keys that may change where a run goes on, and hold from there; see ``fedhello.runs.going_on``."""


class Resumed(NamedTuple):
    """How a run goes on.

    Attributes:
        config: Its configuration, with the learning rate that it started with.
        lr: η of round 0 from here on; None leaves it as it is.
    """

    config: Config
    lr: float | None = None


def stored_config(folder: Path) -> Config:
    """Return the configuration of a run.

    Raises:
        ConfigError: If it cannot be read.
        RunFolderError: If this is not the folder of a run.
    """
    if not (folder / FILE).is_file():
        raise RunFolderError(f"expected the folder of a run; {folder} has no {FILE}. Check the path.")
    return load_run_config(folder / FILE)


def end_of(config: Config) -> tuple[int, object, object]:
    """Return when a run ends: after so many rounds, or by ``train.stop`` or ``train.target``."""
    return config.train.rounds, config.train.stop, config.train.target


def resumed_config(folder: Path, overrides: Sequence[str]) -> Resumed:
    """Return a run's configuration with overrides, none of which may affect the rounds that it has finished.

    Args:
        folder: The run's.
        overrides: ``a.b=c``; ``train.rounds=+N`` is N more than it has.

    Raises:
        ConfigError: If an override would change a result, or the run's method is an object that is not registered.
        RunFolderError: If this is not the folder of a run.
    """
    before = stored_config(folder)
    import_named(before.model_dump())
    if before.method.name not in METHODS:
        raise ConfigError(
            f"expected the method {before.method.name}, which was passed as an object, to be registered; found no such "
            "method. Register it before resuming: fedhello.register_method(method)."
        )
    words = [_absolute(word, before.train.rounds) for word in overrides]
    asked = load_run_config(folder / FILE, words)
    _check_same(folder, before, asked)
    found = going_on(folder, before, asked)
    return found._replace(lr=first_rate(asked)) if any(key_of(word) == RATE for word in words) else found


def _check_same(folder: Path, before: Config, asked: Config) -> None:
    """Check that only keys differ that may change where a run goes on."""
    changed = differing([before, asked], (*irrelevant(before), ROUNDS, RATE))
    if changed:
        said = "; ".join(f"{key} is {there!r} there and {here!r} here" for key, (there, here) in changed.items())
        raise ConfigError(
            f"expected overrides that do not affect the rounds of {folder}, such as run.keep, or those that hold from "
            f"here on: train.rounds, train.lr, train.stop and train.target; {said}. Start another run for that."
        )


def going_on(folder: Path, before: Config, asked: Config) -> Resumed:
    """Return how a run goes on with a configuration that differs in nothing but what may change.

    Args:
        folder: The run's.
        before: Its configuration.
        asked: That with which it is to go on.

    Raises:
        ConfigError: If the number of rounds differs, and differential privacy fixes it.
    """
    _check_budget(folder, before, asked)
    train = asked.train.model_copy(update={"lr": before.train.lr})
    lr = first_rate(asked)
    return Resumed(asked.model_copy(update={"train": train}), None if lr == first_rate(before) else lr)


def _check_budget(folder: Path, before: Config, asked: Config) -> None:
    """Check that the number of rounds is as before, where the noise of each was chosen by it."""
    trains = not METHODS[before.method.name].head_alone
    if before.privacy.epsilon is None or not trains or before.train.rounds == asked.train.rounds:
        return
    raise ConfigError(
        f"expected train.rounds={before.train.rounds}, since the noise of {folder} was chosen so that so many rounds "
        f"spend privacy.epsilon={before.privacy.epsilon:g}; found {asked.train.rounds}. Start another run for that."
    )


def first_rate(config: Config) -> float:
    """Return η of round 0 by a configuration."""
    return rate_of(with_choices(config).train)


def _absolute(word: str, rounds: int) -> str:
    """Return an override with the number of rounds, where it says how many more there are to be."""
    more = re.fullmatch(r"\s*['\"]?\+(\d{1,9})['\"]?\s*", word.partition("=")[2])
    return f"{ROUNDS}={rounds + int(more[1])}" if more and key_of(word) == ROUNDS else word
