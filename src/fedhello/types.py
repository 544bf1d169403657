"""The values that travel through fedhello: small, frozen, free of any engine, disk or model code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from fedhello.randomness import generator


@dataclass(frozen=True)
class Budget:
    """What a client can afford.

    Attributes:
        blocks: How many blocks it may train (the papers' capacity c), 0 ≤ blocks ≤ L. 0 trains the head only.
    """

    blocks: int


@dataclass(frozen=True)
class Client:
    """A participant with private data.

    Attributes:
        id: 0 … K−1; every sum over clients runs in ascending id.
        tier: Index of its tier: the group of clients with the same budget.
        budget: What it can afford.
        samples: n_k, the number of its training samples.
        classes: The labels that occur in its data, ascending; empty where the task has no classes.
    """

    id: int
    tier: int
    budget: Budget
    samples: int
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Federation:
    """What stays the same for a whole run and every strategy may know.

    Attributes:
        clients: All clients that may be invited, ascending id.
        tiers: The budget of each tier.
        blocks: L, the number of blocks of the foundation model.
        clients_per_round: |S_t|.
        seed: Source of every random choice.
    """

    clients: tuple[Client, ...]
    tiers: tuple[Budget, ...]
    blocks: int
    clients_per_round: int
    seed: int


@dataclass(frozen=True)
class Allocation:
    """What one client trains in one round.

    Attributes:
        blocks: The blocks whose LoRA factors train, ascending; the others are frozen. A head that the clients
            share trains besides; it belongs to no block.
    """

    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Adapter:
    """The trainable part of the model: LoRA factors A and B of every targeted module, plus a shared head.

    Attributes:
        tensors: Name → value. ``….lora_A.weight`` is A of shape (r, d_in), ``….lora_B.weight`` is B of shape
            (d_out, r); the head's weight is (classes, d) and its bias (classes,).
        block_of: Name → block, or None for the head. Same keys.
    """

    tensors: Mapping[str, Tensor]
    block_of: Mapping[str, int | None]

    def names(self, allocation: Allocation) -> tuple[str, ...]:
        """Return the names of the tensors that train, and are uploaded, under an allocation; sorted."""
        allocated = set(allocation.blocks)
        return tuple(sorted(n for n, block in self.block_of.items() if block is None or block in allocated))


@dataclass(frozen=True)
class Update:
    """What a client returns.

    Attributes:
        client: Its id.
        round: The round it trained in.
        samples: n_k, its number of training samples; > 0.
        tensors: The new values of exactly the tensors that its allocation names.
        metrics: What it measured: ``loss``, ``steps``, ``batches``, ``seconds``, ``saved_bytes``, …
        bytes_down: Bytes it received for this round, as sent.
        bytes_up: Bytes of this update, as sent.
    """

    client: int
    round: int
    samples: int
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class ClientReport:
    """What is remembered of one client in one round, for the run's folder; no tensors."""

    client: int
    tier: int
    blocks: tuple[int, ...]
    samples: int
    metrics: Mapping[str, float]
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round.

    Attributes:
        round: t, from 0.
        clients: One report per client that took part, ascending id.
        contributors: Per block, how many clients trained it; length L.
        scores: Γ, the Fisher scores that this round's allocation used; length L, or None.
        scored: Whether the scores were recomputed in this round.
    """

    round: int
    clients: tuple[ClientReport, ...]
    contributors: tuple[int, ...]
    scores: tuple[float, ...] | None
    scored: bool


@dataclass(frozen=True)
class RunState:
    """Everything that one round hands to the next; serialisable, so that a run can stop and go on.

    Attributes:
        round: The round that comes next, from 0.
        adapter: θ, the global adapter.
        scores: Γ of the last Fisher scoring, length L; None before the first.
    """

    round: int
    adapter: Adapter
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Situation:
    """All that an allocator may look at for one client in one round.

    Attributes:
        client: The client.
        federation: The clients, their tiers and L.
        round: t, from 0.
        scores: Γ of the last Fisher scoring, or None.
    """

    client: Client
    federation: Federation
    round: int
    scores: tuple[float, ...] | None = None

    def rng(self) -> np.random.Generator:
        """Return this client's generator for this round's allocation."""
        return generator(self.federation.seed, "allocation", self.round, self.client.id)


class Allocator(Protocol):
    """Decides what one client trains in one round; keyword-only parameters are the method's options."""

    def __call__(self, situation: Situation) -> Allocation:
        """Return the client's allocation."""
        ...


class Aggregator(Protocol):
    """Combines updates, which arrive one by one in ascending client id, into the next adapter."""

    def __call__(self, adapter: Adapter, updates: Iterable[Update]) -> Adapter:
        """Return the next global adapter."""
        ...
