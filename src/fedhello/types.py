"""The values that travel through fedhello: small, frozen, free of any engine, disk or model code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from torch import Tensor

from fedhello.costs import ActivationPolicy, ActivationRule, Costs

Factors = Literal["A", "B", "AB"]
"""Which LoRA factors train."""

Reason = Literal[
    "malformed", "checksum", "too large", "stale", "duplicate", "not invited", "wrong tensors", "not finite",
    "wrong count", "out of bounds", "over budget", "failed", "late", "lost",
]  # fmt: skip
"""Why a client's reply does not count: see ``docs/reference/run-folder.md`` for what each stands for."""


@dataclass(frozen=True)
class Budget:
    """What a client can afford. A limit that is None does not bind; at least one is given.

    Attributes:
        blocks: How many blocks it may train (the papers' capacity c), 0 ≤ blocks ≤ L. 0 trains the head only. For
            methods that allocate blocks.
        rank: The highest LoRA rank it may train (the papers' r_k), 1 ≤ rank ≤ R. For methods that allocate ranks.
        memory: Bytes that training may take at most, above the loaded model.
        upload: Bytes that it may send per round.
        seconds: Seconds of training per round.
        speed: FLOP/s that it reaches in training; needed where ``seconds`` is given.
    """

    blocks: int | None = None
    memory: int | None = None
    upload: int | None = None
    seconds: float | None = None
    speed: float | None = None
    rank: int | None = None

    @property
    def only_counts(self) -> bool:
        """Whether it is a number of blocks or a rank and nothing else, as in the papers."""
        return self.memory is None and self.upload is None and self.seconds is None


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
        rule: Which activation policies allocations may use.
        costs: Per tier, what training takes on the largest of its clients' data; empty where nothing is predicted.
        rank: R, the rank of the global adapter.
        scale: s, the LoRA scale, the same for all ranks: h = W₀x + s·B A x.
        quorum: How many of ``clients_per_round`` updates must count for a round to commit; where fewer are asked to
            train, the same share of those.
        over_selection: How many times ``clients_per_round`` are invited, so that as many are left when some are lost.
        class_rows: The tensors of a shared head whose row c is learnt from samples of class c alone, since the loss is
            restricted to each client's own classes; empty where it is not.
    """

    clients: tuple[Client, ...]
    tiers: tuple[Budget, ...]
    blocks: int
    clients_per_round: int
    seed: int
    rule: ActivationRule = "keep"
    costs: tuple[Costs, ...] = ()
    rank: int = 1
    scale: float = 1.0
    quorum: int = 1
    over_selection: float = 1.0
    class_rows: tuple[str, ...] = ()

    @property
    def invited(self) -> int:
        """How many clients are invited to a round."""
        wanted = ceil(self.clients_per_round * self.over_selection - 1e-9)  # 10 · 1.1 is above 11 in binary
        return min(len(self.clients), wanted)

    def enough(self, asked: int) -> int:
        """Return how many updates must count where so many clients were asked to train."""
        return min(self.quorum, -(-asked * self.quorum // self.clients_per_round))


@dataclass(frozen=True)
class Allocation:
    """What one client trains in one round.

    Attributes:
        blocks: The blocks whose LoRA factors train, ascending; the others are frozen.
        policies: What each block does with its activations, length L; empty keeps them all.
        preference: How much the method preferred each block when it was fitted to the budget, length L; empty where
            nothing was fitted. It explains the allocation and is no part of it.
        ranks: r_l, the rank that the client holds of each block, length L; empty for the full rank R everywhere.
        components: Which of the R rank-1 components the client trains, ascending, the same in every block; empty for
            the first r_l.
        factors: Which factors train.
        absent: Blocks that the client's sub-model leaves out altogether, ascending.
        head: Whether a head that the clients share trains besides.
    """

    blocks: tuple[int, ...]
    policies: tuple[ActivationPolicy, ...] = ()
    preference: tuple[float, ...] = field(default=(), compare=False)
    ranks: tuple[int, ...] = ()
    components: tuple[int, ...] = ()
    factors: Factors = "AB"
    absent: tuple[int, ...] = ()
    head: bool = True

    def held(self, block: int, R: int) -> tuple[int, ...]:
        """Return the components of a block that the client holds, ascending."""
        return self.components or tuple(range(self.ranks[block] if self.ranks else R))


LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
"""How the names of factors end; what is before names the targeted module."""

MERGED_A, MERGED_B = ".merged_A.weight", ".merged_B.weight"
"""The same for a product B·A (scale included) that clients add to the frozen weight of the module."""

MERGED = ".merged.weight"
"""The same for such a product as one matrix, which takes the place of factors that would hold more numbers."""


@dataclass(frozen=True)
class Adapter:
    """The trainable part of the model: LoRA factors A and B of every targeted module, plus a shared head.

    Attributes:
        tensors: Name → value. ``….lora_A.weight`` is A of shape (r, d_in), ``….lora_B.weight`` is B of shape
            (d_out, r); the head's weight is (classes, d) and its bias (classes,). ``….merged_A.weight`` and
            ``….merged_B.weight`` are of some shape (m, d_in) and (d_out, m), ``….merged.weight`` in their place is of
            shape (d_out, d_in); none of them ever trains.
        block_of: Name → block, or None for the head. Same keys.
    """

    tensors: Mapping[str, Tensor]
    block_of: Mapping[str, int | None]

    def names(self, allocation: Allocation) -> tuple[str, ...]:
        """Return the names of the tensors that train, and are uploaded, under an allocation; sorted."""
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
        """Return the adapter with some values replaced, and products to be merged added to their module's block.

        A product that comes as one matrix takes the place of the module's factors of what is merged.
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
class Task:
    """What one client is asked to do in one round.

    Attributes:
        client: Its id.
        round: t.
        allocation: m_k.
        adapter: θ_k, what it starts from: the global adapter or the client's part of it.
        known: Names of the tensors that it knows already, so that they need not travel.
        attempt: How many attempts at the round have failed before.
        missed: Products by which what is to be merged has grown since the client last received it. They travel, under
            the names of factors, in place of the whole, whose tensors are among those known.
        correction: c − c_k of SCAFFOLD by name, for the tensors that train and that it has trained before.
    """

    client: int
    round: int
    allocation: Allocation
    adapter: Adapter
    known: frozenset[str] = frozenset()
    attempt: int = 0
    missed: Mapping[str, Tensor] = field(default_factory=dict)
    correction: Mapping[str, Tensor] = field(default_factory=dict)


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
class Rejection:
    """Why a client's reply does not count; to the round, a rejected client is an absent one.

    Attributes:
        client: Its id.
        round: The round it was invited to.
        reason: The kind of reason.
        detail: A sentence.
        bytes_down: Bytes it received for this round, as sent.
        bytes_up: Bytes of its reply; 0 where none came.
    """

    client: int
    round: int
    reason: Reason
    detail: str = ""
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class ClientReport:
    """What is remembered of one client in one round, for the run's folder; no tensors."""

    client: int
    tier: int
    blocks: tuple[int, ...]
    policies: tuple[ActivationPolicy, ...]
    samples: int
    metrics: Mapping[str, float]
    bytes_down: int
    bytes_up: int
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class RoundReport:
    """What happened in one attempt at a round.

    Attributes:
        round: t, from 0.
        clients: One report per client whose update counted, ascending id.
        contributors: Per block, how many clients trained it; length L.
        scores: Γ, the Fisher scores that this round's allocation used; length L, or None.
        scored: Whether the scores were recomputed in this round.
        over_budget: The clients that went over their memory budget.
        rejections: One per client that was asked to train and whose reply does not count.
        failed: Why the attempt was abandoned, so that everything stayed as it was; None if the round was committed.
        attempt: How many attempts at the round had failed before.
        flags: What the aggregation or the scoring did otherwise than it was asked to, one sentence each.
        score_bytes_down: Bytes that clients were sent for Fisher scores.
        score_bytes_up: Bytes of what they sent back for them.
        step: α, how far the server went from θ towards the mean of the updates; None where it does not search.
    """

    round: int
    clients: tuple[ClientReport, ...]
    contributors: tuple[int, ...]
    scores: tuple[float, ...] | None
    scored: bool
    over_budget: tuple[int, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    failed: str | None = None
    attempt: int = 0
    flags: tuple[str, ...] = ()
    score_bytes_down: int = 0
    score_bytes_up: int = 0
    step: float | None = None


@dataclass(frozen=True)
class RunState:
    """Everything that one round hands to the next; serialisable, so that a run can stop and go on.

    Attributes:
        round: The round that comes next, from 0.
        adapter: θ, the global adapter.
        scores: Γ of the last Fisher scoring, length L; None before the first.
        excess: Client → how many times its predicted peak it was seen to need, for those that went over budget.
        method_state: Name → value: what the method remembers besides, such as one model per rank.
        attempt: How many attempts at the round that comes next have failed.
        head_sums: Name → value: the head statistics that the head was solved from last; empty where none are asked for.
        head_clients: Whose they are, ascending.
        head_base: Name → value: the adapter that makes the features which the sums are of, without a head, where the
            head is to follow their drift; else empty.
        selected: The model that the run would hand back now, where models are selected; else None.
        selected_losses: Its −log p of each validation sample, float64, shape (n,).
        selected_round: After how many rounds it was there; 0 is the start.
        forgotten: Whose have been taken out again, ascending; they stay out.
        before_final: The head that the final one took the place of, with its sums, from which further rounds would go
            on; empty where there is none.
    """

    round: int
    adapter: Adapter
    scores: tuple[float, ...] | None = None
    excess: Mapping[int, float] = field(default_factory=dict)
    method_state: Mapping[str, Tensor] = field(default_factory=dict)
    attempt: int = 0
    head_sums: Mapping[str, Tensor] = field(default_factory=dict)
    head_clients: tuple[int, ...] = ()
    forgotten: tuple[int, ...] = ()
    before_final: Mapping[str, Tensor] = field(default_factory=dict)
    head_base: Mapping[str, Tensor] = field(default_factory=dict)
    selected: Adapter | None = None
    selected_losses: Tensor | None = None
    selected_round: int = 0

    @property
    def model(self) -> Adapter:
        """The global model that the run would hand back now."""
        return self.adapter if self.selected is None else self.selected
