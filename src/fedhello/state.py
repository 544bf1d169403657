"""What a round leaves behind: reports for the folder, and the state that the next one starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedhello.costs import ActivationPolicy
from fedhello.types import Adapter, Rejection


@dataclass(frozen=True)
class ClientReport:
    """What is remembered of one client in one round, for the run's folder; no tensors.

    Attributes:
        client: Its id.
        tier: Index of its tier.
        blocks: The blocks that it trained, ascending.
        policies: What each block did with its activations, length L; empty where all were kept.
        samples: n_k, the number of its training samples.
        metrics: What it measured: ``loss``, ``seconds``, ``peak_bytes``, …
        bytes_down: Bytes it received for this round, as sent.
        bytes_up: Bytes of its update, as sent.
        ranks: The rank that it held of each block, length L; empty for the full rank.

    Example:
        >>> state, record = next(fh.rounds(fh.prepare("my.yaml")))
        >>> [(one.client, len(one.blocks), one.bytes_up > 0) for one in record.report.clients]
        [(0, 1, True), (1, 1, True)]
    """

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

    Example:
        >>> state, record = next(fh.rounds(fh.prepare("my.yaml")))
        >>> record.report.round, record.report.failed, len(record.report.contributors)
        (0, None, 3)
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
        personal_heads: Client → the head that it keeps, by tensor name, for the head policy ``local``; a client that
            has not trained yet has none here. None where heads are not personal.
        lr: η, the learning rate of round 0 from which the schedule goes on in all further rounds, in place of the
            configuration's ``train.lr``; > 0. None leaves it there.

    Example:
        >>> session = fh.prepare("my.yaml")
        >>> first = fh.start(session).state
        >>> (second, _), *_ = fh.rounds(session, first)
        >>> first.round, second.round, first.adapter is second.adapter
        (0, 1, False)
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
    personal_heads: Mapping[int, Mapping[str, Tensor]] | None = None
    lr: float | None = None

    @property
    def model(self) -> Adapter:
        """The global model that the run would hand back now."""
        return self.adapter if self.selected is None else self.selected
