"""A session: everything loaded and checked, ready to run; nothing trained or written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from fedhello.data.batches import Samples
from fedhello.data.dataset import Kind
from fedhello.engine.protocol import Engine
from fedhello.methods import Method
from fedhello.model.adapter import LoraModel
from fedhello.model.compensation import DriftCompensation
from fedhello.model.head import HeadSettings
from fedhello.model.statistics import DEFAULT_STATISTICS, StatisticsSettings
from fedhello.strategy import BoundMethod
from fedhello.types import Adapter, Federation


@dataclass(frozen=True)
class ClientEntry:
    """Who a client is, as ``clients.json`` holds it.

    Attributes:
        client: Its id.
        tier: Its tier.
        samples: How many training samples it has.
        labels: Class → samples of it; or, of a client elsewhere, the classes that occur.
        facts: What a client elsewhere said of itself when it joined; None on one machine.
    """

    client: int
    tier: int
    samples: int
    labels: Mapping[str, int] | tuple[str, ...]
    facts: Mapping[str, Any] | None = None


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
        answer_tokens: How many tokens an answer may have.
        prompt_tokens: How many tokens a prompt may have so that its answer fits behind it.
    """

    validation: Samples
    test: Samples
    proxy: Samples
    public: Samples
    questions: tuple[tuple[str, str], ...] = ()
    domains: Mapping[str, Samples] = field(default_factory=dict)
    answer_tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True)
class RunSettings:
    """How long a run goes on, how often it is scored and saved, and who is told.

    Attributes:
        seed: Source of every random choice.
        rounds: T.
        retries: How many attempts at one round may fail.
        evaluate_every: After how many rounds each it is scored.
        selects: Whether the model is handed back that validation data is surest of, and not the last one.
        checkpoint_every: After how many rounds each a checkpoint is saved.
        keep: How many checkpoints stay.
        track: The tools that are told of every round.
        is_remote: Whether clients are on other machines.
        metrics: Names of registered metrics that are scored beside the accuracy.
    """

    seed: int
    rounds: int
    retries: int = 3
    evaluate_every: int = 1
    selects: bool = False
    checkpoint_every: int = 1
    keep: int = 3
    track: tuple[str, ...] = ()
    is_remote: bool = False
    metrics: tuple[str, ...] = ()

    def is_scored_after(self, done: int) -> bool:
        """Whether the state after so many rounds is scored."""
        return is_scored_after(done, self.rounds, self.evaluate_every)


def is_scored_after(done: int, rounds: int, every: int) -> bool:
    """Whether the state after ``done`` rounds is scored: the start, every ``every``-th and the last."""
    return done % every == 0 or done == rounds


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: everything loaded and checked, nothing trained or written.

    Attributes:
        config: The fully resolved configuration as nested plain values, for people and tools; nothing here reads it.
        config_yaml: The same as a configuration file.
        relevant: What of it has an influence on a result.
        settings: How long the run goes on, and how often it is scored and saved.
        head: How the head comes about.
        row: The method's row of the table.
        kind: What a sample is.
        labels: Names of the classes, or of the categories of instruction data.
        model: The one model in memory.
        initial: The values of its adapter and head when it was prepared.
        federation: The clients that can be invited.
        method: With its options.
        engine: Reaches the clients.
        server: The server's data.
        histogram: Samples of each client by class, integers, shape (K, C).
        notes: What a user should know before the start.
        losses: −log p of each sample of the server's validation data under an adapter.
        statistics: What clients sum up for a head that is solved.
        roster: Who takes part, in ascending id; those, too, who are not invited.
        drift: The head that follows what training does to the features; None where it does not follow.
        most_samples: The most samples that one client's head statistics count for; None for no limit.

    Example:
        >>> session = fh.prepare("my.yaml")
        >>> session.labels, len(session.federation.clients), session.histogram.shape
        (('fruit', 'metal'), 4, (4, 2))
    """

    config: Mapping[str, Any]
    config_yaml: str
    relevant: Mapping[str, Any]
    settings: RunSettings
    head: HeadSettings
    row: Method
    kind: Kind
    labels: tuple[str, ...]
    model: LoraModel
    initial: Mapping[str, Tensor]
    federation: Federation
    method: BoundMethod
    engine: Engine
    server: ServerData
    histogram: np.ndarray
    notes: tuple[str, ...]
    losses: Callable[[Adapter], Tensor]
    roster: tuple[ClientEntry, ...]
    statistics: StatisticsSettings = DEFAULT_STATISTICS
    drift: DriftCompensation | None = None
    most_samples: int | None = None

    @property
    def tier_of(self) -> tuple[int, ...]:
        """Tier of each client, by id."""
        return tuple(entry.tier for entry in self.roster)
