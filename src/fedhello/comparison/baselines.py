"""The simple baselines that every comparison contains: training must be better than these."""

from collections.abc import Sequence
from typing import Any

from fedhello.comparison.asked import AskedMethod
from fedhello.config.load import parse_config
from fedhello.config.schema import Config
from fedhello.errors import ConfigError
from fedhello.methods import METHODS
from fedhello.setup.objects import STAND_IN

BASELINES = ("head-only", "server-only")
"""Methods that train no block and have no learning rate: the head solved from the clients' sums, and from the server's
own samples."""


def with_baselines(base: Config, asked: Sequence[AskedMethod]) -> tuple[list[AskedMethod], list[str]]:
    """Return the baselines followed by the given methods, each once, and notes on unsupported baselines.

    Args:
        base: The configuration that all runs share.
        asked: The methods, some of which may be baselines.
    """
    first, notes = [], []
    for name in BASELINES:
        there = [method for method in asked if method.name == name]
        reason = None if there or name not in METHODS else _refusal(base, name)
        if reason is not None:
            notes.append(f"{name} is left out: {reason}")
        elif name in METHODS:
            first += there or [AskedMethod(name, name, {})]
    return [*first, *(method for method in asked if method.name not in BASELINES)], notes


def _refusal(base: Config, name: str) -> str | None:
    """Return why a method does not fit a configuration, regardless of its tiers; None if it fits."""
    raw: dict[str, Any] = base.model_dump(mode="json") | {"method": {"name": name}, "clients": STAND_IN}
    try:
        parse_config(raw)
    except ConfigError as error:
        return str(error)
    return None
