"""An engine and a method under secure aggregation."""

import importlib.util
from dataclasses import replace
from functools import partial

from fedhello.aggregation.sums import SumAggregator
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Engine
from fedhello.errors import ConfigError, MissingExtraError
from fedhello.privacy.secure import SecureRound, SecureSettings, secure_mean
from fedhello.strategy import BoundMethod

PACKAGES = ("Crypto", "cryptography")
"""What masks need."""


def secured(
    engine: LocalEngine, method: BoundMethod, settings: SecureSettings, shared_head: bool
) -> tuple[Engine, BoundMethod]:
    """Return an engine from which sums over clients come alone, and the method that aggregates these.

    Args:
        engine: Trains the clients.
        method: One that needs a sum over clients alone.
        settings: How sums are masked.
        shared_head: Whether clients share a head.

    Raises:
        ConfigError: If the method needs more than a sum.
        MissingExtraError: If the packages for masks are not installed.
    """
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise MissingExtraError("privacy.secure needs packages for masks; run: pip install 'fedhello[privacy]'")
    if not isinstance(method.aggregate, SumAggregator):
        raise ConfigError(f"expected a method that needs a sum over clients alone; found {method.name}")
    from fedhello.engine.secure import SecureEngine

    agreed = SecureRound(method.aggregate, engine.federation, engine.model.snapshot(shared_head), settings)
    masked = SecureEngine(engine, agreed)
    return masked, replace(method, aggregate=partial(secure_mean, agreed=agreed, unmask=masked.unmask))
