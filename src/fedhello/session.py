"""A session: everything loaded and checked, ready to run; nothing is trained or written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from fedhello.data.batches import Samples
from fedhello.data.dataset import Kind
from fedhello.data.digest import NOT_KNOWN, DataDigest
from fedhello.engine.protocol import Engine
from fedhello.formatting import client_words
from fedhello.method import Method
from fedhello.model.adapter import LoraModel
from fedhello.model.compensation import DriftCompensation
from fedhello.model.head import HeadSettings
from fedhello.model.private_sums import PrivatePlan
from fedhello.model.start import Start
from fedhello.model.statistics import DEFAULT_STATISTICS, StatisticsSettings
from fedhello.state import Watched
from fedhello.strategy import BoundMethod
from fedhello.types import Adapter, Federation


@dataclass(frozen=True)
class ClientEntry:
    """A client's entry in ``clients.json``.

    Attributes:
        client: The client's id.
        tier: Index of its tier.
        samples: Number of its training samples.
        labels: Class → number of samples; for a client on another machine, the classes that occur.
        facts: What a client on another machine reported about itself when it joined; None for a local client.
    """

    client: int
    tier: int
    samples: int
    labels: Mapping[str, int] | tuple[str, ...]
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ServerData:
    """The server's data sets, disjoint from each other and from every client's data.

    Attributes:
        validation: Samples to select models and hyperparameters on.
        test: Samples to report scores on.
        proxy: Samples to compute Fisher scores on.
        public: Samples for distillation.
        questions: Test prompts with their responses, for a language model to answer.
        domains: Domain → its test samples, if clients are split along a column.
        answer_tokens: Most tokens of an answer.
        prompt_tokens: Most tokens of a prompt, so that the answer fits behind it.
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
class StopSettings:
    """When a run stops before its last round.

    Attributes:
        patience: Scored rounds without an improvement.
        min_delta: The smallest improvement that counts.
        metric: What is to improve.
    """

    patience: int
    min_delta: float = 0.0
    metric: Watched = "validation_accuracy"


@dataclass(frozen=True)
class RunSettings:
    """Number of rounds, and how often a run is scored, saved and tracked.

    Attributes:
        seed: Source of every random choice.
        rounds: T.
        retries: Attempts at one round before the run ends with an error.
        evaluate_every: Rounds between two scorings.
        selects: Whether the run returns the model selected on validation data instead of the last one.
        checkpoint_every: Rounds between two checkpoints.
        keep: Number of checkpoints that are kept.
        track: Names of the tracking tools.
        is_remote: Whether clients are on other machines.
        metrics: Names of registered metrics, computed in addition to the accuracy.
        stop: When the run stops before its last round; None for never.
        target: The validation accuracy at which it stops; None for none.
        threads: Threads with which a client trains, where clients train at the same time; None for those of torch.
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
    threads: int | None = None
    stop: StopSettings | None = None
    target: float | None = None

    def is_scored_after(self, done: int) -> bool:
        """Whether the state after ``done`` rounds is scored."""
        return is_scored_after(done, self.rounds, self.evaluate_every)


def is_scored_after(done: int, rounds: int, every: int) -> bool:
    """Whether the state after ``done`` rounds is scored: the start, every ``every``-th and the last."""
    return done % every == 0 or done == rounds


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: everything is loaded and checked, nothing is trained or written.

    Attributes:
        config: The fully resolved configuration as nested plain values, for people and tools; the run does not read it.
        config_yaml: The same as YAML text.
        relevant: The keys and values of it that affect a result.
        settings: Number of rounds, and how often the run is scored and saved.
        head: Settings of the head.
        row: The method's row of the table of methods.
        kind: The kind of a sample: texts, images, tensors or instructions.
        labels: Names of the classes, or of the categories of instruction data.
        model: The one model in memory.
        initial: The initial values of its adapter and head.
        federation: The clients that can be invited.
        method: The method with its options.
        engine: The engine that reaches the clients.
        server: The server's data.
        histogram: Number of samples of each client by class, integers, shape (K, C).
        notes: Sentences that a user should read before the start.
        losses: Function from an adapter to −log p of each sample of the server's validation data.
        statistics: Settings of the head statistics that clients send.
        roster: Entries of all clients, in ascending id, including those that cannot be invited.
        drift: Drift compensation of a solved head; None without it.
        most_samples: The most samples for which one client's head statistics count; None for no limit.
        private: What is released under differential privacy; None without it.
        digest: The digest of the data, by which a run recognises them when it is taken up again.
        start: The existing adapter that the run starts from; None if it starts from a new one.

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
    private: PrivatePlan | None = None
    digest: DataDigest = NOT_KNOWN
    start: Start | None = None

    @property
    def bfloat16(self) -> bool:
        """Whether forward passes run in bf16."""
        return self.engine.settings.autocast == "bfloat16"

    @property
    def keeps_head(self) -> bool:
        """Whether the run starts with the head of an existing adapter, and not with one that is solved for it."""
        return self.start is not None and self.start.head and not self.row.head_alone

    def called(self, client: int) -> str:
        """Return what to call a client: its id and, of one on another machine, its name.

        Args:
            client: The client's id.
        """
        return client_words(client, self._names.get(client))

    @cached_property
    def _names(self) -> dict[int, str]:
        return {
            entry.client: str(entry.facts["name"]) for entry in self.roster if entry.facts and "name" in entry.facts
        }

    @cached_property
    def tier_of(self) -> tuple[int, ...]:
        """Tier of each client, by id."""
        return tuple(entry.tier for entry in self.roster)
