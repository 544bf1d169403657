"""A session: everything loaded and checked, ready to run; nothing trained or written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from fedhello.config.schema import Config
from fedhello.data.batches import Samples
from fedhello.data.dataset import Kind
from fedhello.engine.protocol import Engine
from fedhello.model.adapter import LoraModel
from fedhello.model.compensation import DriftCompensation
from fedhello.model.statistics import DEFAULT_STATISTICS, StatisticsSettings
from fedhello.strategy import BoundMethod
from fedhello.types import Adapter, Federation


@dataclass(frozen=True)
class ServerData:
    """What the server holds; disjoint from every client's data and from each other.

    Attributes:
        validation: For choosing.
        test: For reporting.
        proxy: For Fisher scores.
        public: For distillation.
        questions: Prompts of the test set with their responses, which a language model answers.
        domains: Domain → its samples of the test set, where clients are split along a column.
    """

    validation: Samples
    test: Samples
    proxy: Samples
    public: Samples
    questions: tuple[tuple[str, str], ...] = ()
    domains: Mapping[str, Samples] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: everything loaded and checked, nothing trained or written.

    Attributes:
        config: Fully resolved.
        kind: What a sample is.
        labels: Names of the classes, or of the categories of instruction data.
        model: The one model in memory.
        initial: The values of its adapter and head when it was prepared.
        federation: The clients that can be invited.
        method: With its options.
        engine: Reaches the clients.
        server: The server's data.
        histogram: Samples of each client by class, integers, shape (K, C).
        tier_of: Tier of each client, by id.
        notes: What a user should know before the start.
        losses: −log p of each sample of the server's validation data under an adapter.
        statistics: What clients sum up for a head that is solved.
        described: What ``clients.json`` holds of each client where its histogram is not known here.
        drift: The head that follows what training does to the features; None where it does not follow.

    Example:
        >>> session = fh.prepare("my.yaml")
        >>> session.labels, len(session.federation.clients), session.histogram.shape
        (('fruit', 'metal'), 4, (4, 2))
    """

    config: Config
    kind: Kind
    labels: tuple[str, ...]
    model: LoraModel
    initial: Mapping[str, Tensor]
    federation: Federation
    method: BoundMethod
    engine: Engine
    server: ServerData
    histogram: np.ndarray
    tier_of: tuple[int, ...]
    notes: tuple[str, ...]
    losses: Callable[[Adapter], Tensor]
    statistics: StatisticsSettings = DEFAULT_STATISTICS
    described: tuple[Mapping[str, Any], ...] = ()
    drift: DriftCompensation | None = None
