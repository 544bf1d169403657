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
from fedhello.formatting import human_bytes
from fedhello.privacy.secure import SecureRound, SecureSettings, Unmask, secure_mean
from fedhello.privacy.vectors import BITS, weight_shape
from fedhello.strategy import AggregationResult, BoundMethod
from fedhello.types import Adapter, Federation

BYTES_PER_SEED = 48
"""What a client sends for each other one of a sum, per secret: its share, encrypted, its nonce, and the open share."""

PACKAGES = ("Crypto", "cryptography")
"""What masks need."""


def masked_costs(costs: StepCosts, adapter: Adapter, clients: int, settings: SecureSettings) -> StepCosts:
    """Return costs where clients upload vectors: as long as the adapter, or of what they train.

    Args:
        costs: Without masks.
        adapter: The global adapter.
        clients: Of a round.
        settings: How sums are masked.
    """
    L = len(costs.block_upload)
    fixed = _bytes_of(adapter, None) + BYTES_PER_SEED * (L + 2) * (min(clients, settings.group) + 1)
    blocks = tuple(_bytes_of(adapter, block) for block in range(L))
    if settings.cohorts is None:
        return replace(costs, block_upload=(0,) * L, fixed_upload=fixed + sum(blocks))
    return replace(costs, block_upload=blocks, fixed_upload=fixed)


def _bytes_of(adapter: Adapter, block: int | None) -> int:
    """Return the bytes of a block's values and weights in a vector, or of the head's."""
    names = [name for name, own in adapter.block_of.items() if own == block]
    shapes = {name: tuple(adapter.tensors[name].shape) for name in names}
    return BITS // 8 * sum(prod(shape) + prod(weight_shape(name, shape, shapes)) for name, shape in shapes.items())


def upload_note(adapter: Adapter, settings: SecureSettings) -> str:
    """Return what clients of a run with secure sums upload, as a sentence.

    Args:
        adapter: The global adapter.
        settings: How sums are masked.
    """
    whole = human_bytes(sum(_bytes_of(adapter, block) for block in {*adapter.block_of.values()}))
    if settings.cohorts is None:
        return f"privacy.cohorts: every client uploads {whole}, whatever it trains; with a number, its own blocks alone"
    return (
        f"privacy.cohorts: a client uploads its own blocks instead of {whole}; what fewer than {settings.cohorts} "
        "clients of a sum train is withheld"
    )


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
