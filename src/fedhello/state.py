"""Results of a round: reports for the run folder, and the state that the next round starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedhello.costs import ActivationPolicy
from fedhello.types import Adapter, Rejection


@dataclass(frozen=True)
class ClientReport:
    """Report of one client in one round, for the run folder; without tensors.

    Attributes:
        client: Its id.
        tier: Index of its tier.
        blocks: The blocks that the client trained, ascending.
        policies: The activation policy of each block, length L; empty if all activations are kept.
        samples: n_k, the number of its training samples.
        metrics: The client's measurements: ``loss``, ``seconds``, ``peak_bytes``, …
        bytes_down: Bytes on the wire that the client received for this round.
        bytes_up: Bytes on the wire of its update.
        ranks: The rank that it held in each block, length L; empty for the full rank.

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
    """Report of one attempt at a round.

    Attributes:
        round: t, from 0.
        clients: One report per client whose update counted, ascending id.
        contributors: Per block, the number of clients that trained it; length L.
        scores: Γ, the Fisher scores used for this round's allocations; length L, or None.
        scored: Whether Γ was recomputed in this round.
        over_budget: The clients that exceeded their memory budget.
        rejections: One per client whose reply does not count.
        failed: Why the attempt failed and the state did not change; None if the round was committed.
        attempt: Number of earlier failed attempts at this round.
        flags: Deviations of aggregation or scoring from the settings, one sentence each.
        score_bytes_down: Bytes sent to clients for Fisher scores.
        score_bytes_up: Bytes that clients sent for Fisher scores.
        step: α, the server's step size from θ towards the mean of the updates; None without a search for it.
        train_loss: The clients' mean training loss, if only their sum is known; None if each client reports its own.

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
    train_loss: float | None = None


Watched = Literal["validation_accuracy", "validation_loss", "train_loss"]
"""Metrics by which a run may stop early. Test data are only for reporting."""


Unit = Literal["client", "sample"]
"""What differential privacy protects: all data of a client, or a single sample."""


@dataclass(frozen=True)
class Release:
    """A sum that was released with Gaussian noise; see ``fedhello.privacy.ledger``.

    Attributes:
        name: What was released.
        noise: σ: the noise's standard deviation over the most that what is protected changes the sum; > 0.
        rate: q, the probability with which a client, or a sample of ``client``, was part of it, independently of the
            others; 1 for all.
        times: How many such releases.
        client: The one client whose data it is of; None for all clients.

    Example:
        >>> fh.Release("head statistics", noise=1.2).rate
        1.0
    """

    name: str
    noise: float
    rate: float = 1.0
    times: int = 1
    client: int | None = None


@dataclass(frozen=True)
class RunState:
    """The state between two rounds; it can be saved, so that a run can be resumed.

    Attributes:
        round: Index of the next round, from 0.
        adapter: θ, the global adapter.
        scores: Γ of the last Fisher scoring, length L; None before the first.
        excess: Client → measured over predicted memory, for clients that exceeded their memory budget.
        method_state: Name → value: state of the method beside the adapter, such as one model per rank.
        attempt: Number of failed attempts at the next round.
        head_sums: Name → value: the head statistics that the current head is solved from; empty if it is not solved.
        head_clients: The clients whose statistics these are, ascending.
        head_most: The most samples for which a client counts in them, if fewer than ``defence.max_share`` allows; else
            None.
        head_base: Name → value: the adapter, without a head, under which the features of ``head_sums`` were computed,
            if the head is compensated for drift; else empty.
        selected: The selected model, which the run would return now; None without model selection.
        selected_losses: Its −log p of each validation sample, float64, shape (n,).
        selected_round: Number of rounds after which it was selected; 0 is the start.
        forgotten: The clients whose statistics were removed, ascending; they are not added again.
        before_final: The head and its sums before the final head replaced them, from which further rounds continue;
            empty without a final head.
        personal_heads: Client → its own head by tensor name, for the head policy ``local``; a client that has not
            trained yet has no entry. None if heads are not personal.
        lr: η, the learning rate of round 0 from which the schedule goes on in all further rounds, in place of the
            configuration's ``train.lr``; > 0. None uses the configuration's.
        releases: What of the clients was released with noise so far; empty without differential privacy.

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
    releases: tuple[Release, ...] = ()
    head_most: int | None = None

    @property
    def model(self) -> Adapter:
        """The global model that the run would return now: the selected one, or else θ."""
        return self.adapter if self.selected is None else self.selected
