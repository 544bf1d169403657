"""An engine and a method under secure aggregation."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod

from fedhello.aggregation.sums import SumAggregator
from fedhello.client.cost_model import StepCosts
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Engine
from fedhello.errors import ConfigError, MissingExtraError
from fedhello.privacy.secure import SecureRound, SecureSettings, secure_mean
from fedhello.privacy.vectors import BITS, weight_shape
from fedhello.strategy import AggregationResult, BoundMethod
from fedhello.types import Adapter

BYTES_PER_CLIENT = 128
"""More than a client sends for each other one of a sum: shares of its secrets, encrypted and in the open."""

PACKAGES = ("Crypto", "cryptography")
"""What masks need."""


def masked_costs(costs: StepCosts, adapter: Adapter, clients: int) -> StepCosts:
    """Return costs where every client uploads one vector as long as the adapter, whatever it trains.

    Args:
        costs: Without masks.
        adapter: The global adapter.
        clients: Of a round.
    """
    shapes = {name: tuple(value.shape) for name, value in adapter.tensors.items()}
    numbers = sum(prod(shape) + prod(weight_shape(name, shape, shapes)) for name, shape in shapes.items())
    upload = BITS // 8 * numbers + BYTES_PER_CLIENT * (clients + 1)
    return replace(costs, block_upload=(0,) * len(costs.block_upload), fixed_upload=upload)


def secured(
    engine: LocalEngine,
    method: BoundMethod,
    aggregator: Callable[..., AggregationResult],
    settings: SecureSettings,
    shared_head: bool,
    most_samples: int | None,
) -> tuple[Engine, BoundMethod]:
    """Return an engine from which sums over clients come alone, and the method that aggregates these.

    Args:
        engine: Trains the clients.
        method: One that needs a sum over clients alone.
        aggregator: The method's, with its options.
        settings: How sums are masked.
        shared_head: Whether clients share a head.
        most_samples: The most samples that a client weighs for; None for no limit.

    Raises:
        ConfigError: If the method needs more than a sum.
        MissingExtraError: If the packages for masks are not installed.
    """
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise MissingExtraError("privacy.secure needs packages for masks; run: pip install 'fedhello[privacy]'")
    if not isinstance(aggregator, SumAggregator):
        raise ConfigError(f"expected a method that needs a sum over clients alone; found {method.name}")
    from fedhello.engine.secure import SecureEngine

    adapter = engine.model.snapshot(shared_head)
    agreed = SecureRound(aggregator, engine.federation, adapter, settings, most_samples)
    masked = SecureEngine(engine, agreed)
    return masked, replace(method, aggregate=partial(secure_mean, agreed=agreed, unmask=masked.unmask))
