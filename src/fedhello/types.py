"""Small frozen values that all parts of fedhello share; free of engine, disk and model code."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Literal

import numpy as np
from torch import Tensor

from fedhello.costs import ActivationPolicy, ActivationRule, Costs
from fedhello.randomness import turn

Factors = Literal["A", "B", "AB"]
"""Which LoRA factors train."""

Reason = Literal[
    "malformed", "checksum", "too large", "stale", "duplicate", "not invited", "wrong tensors", "not finite",
    "wrong count", "out of bounds", "over budget", "not allowed", "failed", "late", "lost",
]  # fmt: skip
"""Reasons why a client's reply does not count, described in ``docs/reference/run-folder.md``."""


@dataclass(frozen=True)
class Budget:
    """Limits of a client's training. None is no limit; at least one limit is given.

    Attributes:
        blocks: The most blocks to train (the papers' capacity c), 0 ≤ blocks ≤ L; 0 trains the head only. For methods
            that allocate blocks.
        rank: The highest LoRA rank to train (the papers' r_k), 1 ≤ rank ≤ R. For methods that allocate ranks.
        memory: The most bytes of training, above the loaded model.
        upload: The most bytes to send per round.
        seconds: The most seconds of training per round.
        speed: The client's FLOP/s in training; needed with ``seconds``.
        cache: The most bytes of activations below the lowest trained block to keep between steps and rounds, beside
            ``memory``. It limits no training; None keeps none.

    Example:
        >>> fh.Budget(blocks=2).only_counts, fh.Budget(memory=25_000_000, upload=200_000).only_counts
        (True, False)
    """

    blocks: int | None = None
    memory: int | None = None
    upload: int | None = None
    seconds: float | None = None
    speed: float | None = None
    rank: int | None = None
    cache: int | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        names = ("blocks", "memory", "upload", "seconds", "speed", "rank", "cache")
        return {name: limit for name in names if (limit := getattr(self, name)) is not None}

    @property
    def only_counts(self) -> bool:
        """Whether only blocks or a rank are limited, as in the papers."""
        return self.memory is None and self.upload is None and self.seconds is None


@dataclass(frozen=True)
class Client:
    """A participant with private data.

    Attributes:
        id: 0 … K−1; every sum over clients runs in ascending id.
        tier: Index of its tier: the group of clients with the same budget.
        budget: Its budget.
        samples: n_k, the number of its training samples.
        classes: The labels that occur in its data, ascending; empty where the task has no classes.

    Example:
        >>> fh.Client(id=0, tier=0, budget=fh.Budget(blocks=2), samples=70, classes=(0, 3)).samples
        70
    """

    id: int
    tier: int
    budget: Budget
    samples: int
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Federation:
    """What stays the same for a whole run and is visible to every allocator and aggregator.

    Attributes:
        clients: All clients that may be invited, ascending id.
        tiers: The budget of each tier.
        num_blocks: L, the number of blocks of the foundation model.
        clients_per_round: The size of S_t.
        seed: Source of every random choice.
        rule: The activation policies that allocations may use.
        costs: Per tier, predicted costs on its largest client's data; empty if costs are not predicted.
        rank: R, the rank of the global adapter.
        scale: s, the LoRA scale, the same for all ranks: h = W₀x + s·B A x.
        quorum: Number of the ``clients_per_round`` updates that must count for a round to be committed; if fewer
            clients are asked to train, the same share of those.
        over_selection: Factor ≥ 1 on ``clients_per_round`` for the number of invited clients, to make up for lost ones.
        class_rows: The tensors of a shared head whose row c is learnt from samples of class c only, because the loss is
            restricted to each client's own classes; empty for other losses.
        poisson: Whether each client is part of a round with probability ``clients_per_round``/K, independently of the
            others, so that rounds differ in size and may be empty; else exactly ``clients_per_round`` are.
        cycle: Clients take part in one of so many rounds at most; 1 does not bound how often.
        secret: Whether S_t is drawn by the operating system's entropy, so that nobody can draw it again from the seed.

    Example:
        >>> tiers = (fh.Budget(blocks=1), fh.Budget(blocks=6))
        >>> clients = tuple(fh.Client(k, k % 2, tiers[k % 2], samples=70) for k in range(10))
        >>> fh.Federation(clients, tiers, num_blocks=6, clients_per_round=4, seed=0, over_selection=1.5).invited
        6
    """

    clients: tuple[Client, ...]
    tiers: tuple[Budget, ...]
    num_blocks: int
    clients_per_round: int
    seed: int
    rule: ActivationRule = "keep"
    costs: tuple[Costs, ...] = ()
    rank: int = 1
    scale: float = 1.0
    quorum: int = 1
    over_selection: float = 1.0
    class_rows: tuple[str, ...] = ()
    poisson: bool = False
    cycle: int = 1
    secret: bool = False

    @property
    def invited(self) -> int:
        """Number of clients that are invited to a round."""
        wanted = ceil(self.clients_per_round * self.over_selection - 1e-9)  # 10 · 1.1 is above 11 in binary
        return min(len(self.clients), wanted)

    @cached_property
    def by_id(self) -> Mapping[int, Client]:
        """Client id → the client."""
        return {client.id: client for client in self.clients}

    @cached_property
    def members(self) -> tuple[int, ...]:
        """The number of clients of each tier."""
        counted = Counter(client.tier for client in self.clients)
        return tuple(counted[g] for g in range(len(self.tiers)))

    def in_turn(self, round: int) -> np.ndarray:
        """Return the positions of the clients whose turn a round is, ascending.

        Args:
            round: t ≥ 0.
        """
        return turn(self.seed, len(self.clients), self.cycle, round)

    def enough(self, asked: int) -> int:
        """Return the quorum: the number of updates that must count for a round to be committed.

        Args:
            asked: Number of clients asked to train, ≥ 0; less than ``clients_per_round`` if some do not take part.
        """
        return min(self.quorum, -(-asked * self.quorum // self.clients_per_round))


@dataclass(frozen=True)
class Allocation:
    """What one client trains in one round.

    Attributes:
        blocks: The blocks whose LoRA factors train, ascending; the others are frozen.
        policies: The activation policy of each block, length L; empty keeps all activations.
        preference: The method's preference for each block when it fitted the allocation to the budget, length L; empty
            if it did not fit. Only for explanations.
        ranks: r_l, the rank that the client holds in each block, length L; empty for the full rank R everywhere.
        components: Which of the R rank-1 components the client trains, ascending: those of each block, length L; or
            numbers, which are the same in every block; empty for the first r_l.
        factors: The LoRA factors that train: A, B or both.
        absent: Blocks that the client's sub-model leaves out, ascending.
        head: Whether a shared head trains, too.

    Example:
        >>> one = fh.Allocation(blocks=(0, 5), ranks=(4,) * 6)
        >>> one.held(block=5, R=8)
        (0, 1, 2, 3)
        >>> fh.Allocation(blocks=(0, 1), components=((0, 3), (2, 5))).held(block=1, R=8)
        (2, 5)
    """

    blocks: tuple[int, ...]
    policies: tuple[ActivationPolicy, ...] = ()
    preference: tuple[float, ...] = field(default=(), compare=False)
    ranks: tuple[int, ...] = ()
    components: tuple[int | tuple[int, ...], ...] = ()
    factors: Factors = "AB"
    absent: tuple[int, ...] = ()
    head: bool = True

    def held(self, block: int, R: int) -> tuple[int, ...]:
        """Return the components of a block that the client holds, ascending.

        Args:
            block: One of 0 … L−1.
            R: The rank of the global adapter.
        """
        by_block = [own for own in self.components if not isinstance(own, int)]
        everywhere = tuple(j for j in self.components if isinstance(j, int))
        return by_block[block] if by_block else everywhere or tuple(range(self.ranks[block] if self.ranks else R))


LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
"""Endings of the names of factors; the part before it names the targeted module."""

MERGED_A, MERGED_B = ".merged_A.weight", ".merged_B.weight"
"""Endings for the factors of a product B·A (scale included) that clients add to the module's frozen weight."""

MERGED = ".merged.weight"
"""Ending for such a product as one matrix, used if its factors would hold more numbers."""


@dataclass(frozen=True)
class Adapter:
    """The trainable part of the model: LoRA factors A and B of every targeted module, plus a shared head.

    Attributes:
        tensors: Name → value. ``….lora_A.weight`` is A of shape (r, d_in), ``….lora_B.weight`` is B of shape
            (d_out, r); the head's weight has shape (C, d) and its bias (C,). ``….merged_A.weight`` and
            ``….merged_B.weight`` have shapes (m, d_in) and (d_out, m) for some m; ``….merged.weight``, in their place,
            has shape (d_out, d_in). Merged tensors do not train.
        block_of: Name → block, or None for the head; the same keys.

    Example:
        >>> import torch
        >>> A, B, head = torch.zeros(4, 16), torch.zeros(16, 4), torch.zeros(2, 16)
        >>> tensors = {"q.lora_A.weight": A, "q.lora_B.weight": B, "head": head}
        >>> adapter = fh.Adapter(tensors, {"q.lora_A.weight": 0, "q.lora_B.weight": 0, "head": None})
        >>> adapter.rank, adapter.names(fh.Allocation(blocks=(), head=True))
        (4, ('head',))
    """

    tensors: Mapping[str, Tensor]
    block_of: Mapping[str, int | None]

    def names(self, allocation: Allocation) -> tuple[str, ...]:
        """Return the names of the tensors that train, and are uploaded, under an allocation; sorted.

        Args:
            allocation: The allocation of a client.
        """
        allocated = set(allocation.blocks)
        frozen = [MERGED_A, MERGED_B, MERGED]
        frozen += [LORA_A] if allocation.factors == "B" else [LORA_B] if allocation.factors == "A" else []
        return tuple(
            sorted(
                n
                for n, block in self.block_of.items()
                if (allocation.head if block is None else block in allocated and not n.endswith(tuple(frozen)))
            )
        )

    @property
    def modules(self) -> dict[str, int]:
        """The targeted modules, by the start of their factors' names, each with its block; sorted."""
        names = sorted(name for name in self.tensors if name.endswith(LORA_A))
        return {name.removesuffix(LORA_A): self.block_of[name] or 0 for name in names}

    @property
    def rank(self) -> int:
        """R, the rank of its factors."""
        return max(self.tensors[module + LORA_A].shape[0] for module in self.modules)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Adapter":
        """Return the adapter with some tensors replaced, and merged products added for their modules.

        A merged product as one matrix replaces the module's merged factors.

        Args:
            tensors: Name → the new value, in the same shape; or a merged product.
        """
        whole = [name.removesuffix(MERGED) for name in tensors if name.endswith(MERGED)]
        replaced = {module + end for module in whole for end in (MERGED_A, MERGED_B)}
        values = {name: value for name, value in {**self.tensors, **tensors}.items() if name not in replaced}
        block_of = {name: block for name, block in self.block_of.items() if name not in replaced}
        for name in values.keys() - block_of.keys():
            module = name.removesuffix(MERGED_A).removesuffix(MERGED_B).removesuffix(MERGED)
            block_of[name] = block_of[module + LORA_A]
        return Adapter(values, block_of)


@dataclass(frozen=True)
class NoisySteps:
    """How a client trains in one round where its single samples are protected; see ``fedhello.privacy.samples``.

    Attributes:
        noise: σ, the deviation of the noise of a step over the clip.
        rate: q, with which a sample is in a step.
        steps: E.

    Example:
        >>> fh.NoisySteps(noise=1.5, rate=0.25, steps=4).steps
        4
    """

    noise: float
    rate: float
    steps: int


@dataclass(frozen=True)
class Task:
    """A client's task in one round.

    Attributes:
        client: Its id.
        round: t.
        allocation: m_k.
        adapter: θ_k, the client's start: the global adapter or the client's part of it.
        known: Names of the tensors that the client has already, which are not sent.
        attempt: Number of earlier failed attempts at this round.
        missed: Products that were merged since the client last received the merged tensors. They are sent, under the
            names of factors, instead of the whole merged tensors, which are among ``known``.
        correction: c − c_k of SCAFFOLD by name, for tensors that train and that the client has trained before.
        lr: η, the learning rate of round 0 that the client's schedule starts from; None uses the configuration's.
        clip: C, the largest length of the client's change under differential privacy, which it keeps to itself, or
            with ``steps`` of a sample's gradient; None without.
        steps: How the client trains where single samples are protected; None trains as always.

    Example:
        >>> fh.Task(client=0, round=3, allocation=fh.Allocation((1,)), adapter=fh.Adapter({}, {})).attempt
        0
    """

    client: int
    round: int
    allocation: Allocation
    adapter: Adapter
    known: frozenset[str] = frozenset()
    attempt: int = 0
    missed: Mapping[str, Tensor] = field(default_factory=dict)
    correction: Mapping[str, Tensor] = field(default_factory=dict)
    lr: float | None = None
    clip: float | None = None
    steps: NoisySteps | None = None


@dataclass(frozen=True)
class Update:
    """A client's contribution from a training round.

    Attributes:
        client: Its id.
        round: The round in which it trained.
        samples: n_k, its number of training samples; > 0.
        tensors: The new values of exactly the tensors that its allocation names.
        metrics: Its measurements: ``loss``, ``steps``, ``batches``, ``seconds``, ``saved_bytes``, …
        bytes_down: Bytes on the wire that it received for this round.
        bytes_up: Bytes on the wire of this update.

    Example:
        >>> import torch
        >>> update = fh.Update(client=0, round=3, samples=70, tensors={"head": torch.ones(1)}, metrics={"loss": 0.4})
        >>> update.samples * update.metrics["loss"]
        28.0
    """

    client: int
    round: int
    samples: int
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class Rejection:
    """Why a client's reply does not count; the round treats the client as absent.

    Attributes:
        client: Its id.
        round: The round it was invited to.
        reason: One of ``Reason``.
        detail: A sentence.
        bytes_down: Bytes on the wire that it received for this round.
        bytes_up: Bytes on the wire of its reply; 0 without a reply.

    Example:
        >>> fh.Rejection(client=0, round=3, reason="not finite", detail="loss is nan").reason
        'not finite'
    """

    client: int
    round: int
    reason: Reason
    detail: str = ""
    bytes_down: int = 0
    bytes_up: int = 0
