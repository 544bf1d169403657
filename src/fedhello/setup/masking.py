"""An engine and a method under secure aggregation."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod

from fedhello.aggregation.share import most_samples
from fedhello.aggregation.sums import SumAggregator
from fedhello.client.cost_model import StepCosts
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Engine
from fedhello.errors import ConfigError, MissingExtraError
from fedhello.privacy.secure import SecureRound, SecureSettings, Unmask, secure_mean
from fedhello.privacy.vectors import BITS, weight_shape
from fedhello.strategy import AggregationResult, BoundMethod
from fedhello.types import Adapter, Federation

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


def agreed_round(
    aggregator: Callable[..., AggregationResult],
    federation: Federation,
    adapter: Adapter,
    settings: SecureSettings,
    max_share: float | None,
) -> SecureRound:
    """Return what clients and server of a run with secure sums agree on.

    Args:
        aggregator: The method's, with its options.
        federation: The clients.
        adapter: The global adapter, for its shapes.
        settings: How sums are masked.
        max_share: The cap on a client's weight; see ``aggregation.share``.

    Raises:
        ConfigError: If the method needs more than a sum.
        MissingExtraError: If the packages for masks are not installed.
    """
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise MissingExtraError("privacy.secure needs packages for masks; run: pip install 'fedhello[privacy]'")
    if not isinstance(aggregator, SumAggregator):
        raise ConfigError("expected a method that needs a sum over clients alone for privacy.secure; found another")
    most = most_samples((client.samples for client in federation.clients), max_share)
    return SecureRound(aggregator, federation, adapter, settings, most)


def with_secure_sums(method: BoundMethod, agreed: SecureRound, unmask: Unmask) -> BoundMethod:
    """Return the method with masked updates, of which it sees the sum alone."""
    return replace(method, aggregate=partial(secure_mean, agreed=agreed, unmask=unmask))


def secured(engine: LocalEngine, method: BoundMethod, agreed: SecureRound) -> tuple[Engine, BoundMethod]:
    """Return a local engine that gives sums over clients alone, and the method that aggregates these."""
    from fedhello.engine.secure import SecureEngine

    masked = SecureEngine(engine, agreed)
    return masked, with_secure_sums(method, agreed, masked.unmask)
