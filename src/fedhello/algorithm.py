"""Algorithm 1 of Fed-HeLLo (Zhang et al., arXiv 2506.12213).

    Server:  initialise the global LoRA parameters θ⁰
             for each round t = 0, …, T−1:
                 S_t ← a random subset of the clients
                 if the schedule says so: Γ ← Fisher scores of the blocks under θᵗ, on the proxy set or from S_t
                 for each client k ∈ S_t: m_k ← HLA(c_k, Γ, t)                     the layer map
                 for each client k ∈ S_t in parallel: θ_k ← LocalTraining(θᵗ, m_k)
                 for each layer l: θ_lᵗ⁺¹ ← weighted mean of θ_{k,l} over C_l = {k ∈ S_t : l ∈ m_k},
                                   θ_lᵗ⁺¹ ← θ_lᵗ where C_l is empty

The paper does not define failures. Here a client whose update is missing or rejected is treated as absent from S_t. If
fewer updates than the quorum count, the state does not change and round t is attempted again with another S_t.

The method (``fedhello.methods``) defines HLA, the mean, and the part of θᵗ that a client gets where ranks differ. The
engine (``fedhello.engine``) reaches the clients. This module uses no model, disk, network or terminal.

Example: two blocks of one number each, two clients, and "training" that adds the client's id plus one.

    >>> import torch
    >>> from fedhello.methods import METHODS
    >>> from fedhello.types import Adapter, Budget, Client, Federation, Update
    >>> theta = Adapter({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": 0, "b": 1})
    >>> small, large = Budget(blocks=1), Budget(blocks=2)
    >>> clients = (Client(0, 0, small, samples=3), Client(1, 1, large, samples=1))
    >>> federation = Federation(clients, (small, large), num_blocks=2, clients_per_round=2, seed=0)
    >>> def train(tasks):
    ...     for task in tasks:
    ...         k, names = task.client, task.adapter.names(task.allocation)
    ...         values = {name: task.adapter.tensors[name] + k + 1 for name in names}
    ...         yield Update(client=k, round=task.round, samples=clients[k].samples, tensors=values)
    >>> method = METHODS["gd-hla"].bind(pattern="triangle")
    >>> state, record = round(init(theta), federation, method, train, score=None)
    >>> [float(state.adapter.tensors[name]) for name in ("a", "b")], record.contributors
    ([1.25, 2.0], (2, 1))

Block 0 is the mean over both clients, (3·1 + 1·2)/4; block 1 was trained by client 1 alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from fedhello.allocation.needs import measured_excess
from fedhello.randomness import generator, secret_generator
from fedhello.state import ClientReport, RoundReport, RunState
from fedhello.strategy import AggregationContext, AllocationContext, BoundMethod, Distil
from fedhello.types import Adapter, Allocation, Client, Federation, Rejection, Task, Update

Train = Callable[[Iterable[Task]], Iterable[Update | Rejection]]
"""LocalTraining on every client of a round: tasks (θ_k, m_k, t) in ascending client id → replies in the same order."""

Score = Callable[[RunState, tuple[Client, ...]], tuple[float, ...]]
"""Γ: one Fisher score per block under the state's θ, from the server's proxy set or the clients S_t; length L."""


def init(adapter: Adapter) -> RunState:
    """Return the state before round 0, with θ⁰ = ``adapter``."""
    return RunState(round=0, adapter=adapter)


def round(
    state: RunState,
    federation: Federation,
    method: BoundMethod,
    train: Train,
    score: Score | None,
    distil: Distil | None = None,
) -> tuple[RunState, RoundReport]:
    """Run one attempt at a round of Algorithm 1; it is committed completely or not at all.

    Args:
        state: The state before the round; it is not changed.
        federation: The clients, their tiers and L.
        method: The allocator and the aggregator, with their options.
        train: Trains the clients of the round; see ``Train``.
        score: Computes Γ; None for a method without Fisher scores.
        distil: Distils models on the server's public set; None without one.

    Returns:
        The state after the round, and the report of the round.
    """
    t, θ = state.round, state.adapter
    S_t = sample_clients(federation, t, state.attempt)

    scored = method.scores_due(t)
    if scored and score is None:
        raise ValueError(f"expected a score function, since {method.name} needs Fisher scores in round {t}; found None")
    Γ = score(state, S_t) if scored and score is not None else state.scores

    at = {k.id: AllocationContext(k, federation, t, Γ, state.excess.get(k.id, 1.0), state.method_state) for k in S_t}
    chosen = {k: method.allocate(at[k]) for k in at}
    m = {k: m_k for k, m_k in chosen.items() if m_k is not None}  # the others sit this round out

    reports: list[ClientReport] = []
    rejections: list[Rejection] = []
    context = AggregationContext(θ, federation, t, m, state.method_state, distil, state.lr, Γ)
    tasks = (replace(method.send(θ, m_k, at[k]), attempt=state.attempt, lr=state.lr) for k, m_k in m.items())
    updates = _counted(method.screen(context, train(tasks)), S_t, m, reports, rejections)
    θ_next = method.aggregate(context, updates)

    needed = federation.enough(len(m))
    failed = θ_next.failed
    if failed is None and len(reports) < needed:
        failed = f"{len(reports)} of {len(m)} updates count; the quorum is {needed}"
    if failed is None and not all(bool(value.isfinite().all()) for value in θ_next.adapter.tensors.values()):
        failed = "the combined values are not finite"
    contributors = tuple(sum(l in m[r.client].blocks for r in reports) for l in range(federation.num_blocks))
    over_budget = measured_excess(federation, reports, state.excess, rejections)
    happened = (tuple(over_budget), tuple(rejections), failed, state.attempt, θ_next.flags)
    record = RoundReport(t, tuple(reports), contributors, Γ, scored, *happened, step=θ_next.step)
    record = replace(record, train_loss=θ_next.train_loss)
    state = replace(state, excess={**state.excess, **over_budget})
    if failed is not None:
        return replace(state, attempt=state.attempt + 1), record
    return replace(
        state, round=t + 1, attempt=0, adapter=θ_next.adapter, scores=Γ, method_state=θ_next.method_state
    ), record


def sample_clients(federation: Federation, round: int, attempt: int = 0) -> tuple[Client, ...]:
    """Return S_t in ascending id: ``federation.invited`` different clients, drawn at random of those whose turn it is.

    With ``federation.poisson`` each client is in S_t with probability ``clients_per_round``/K, independently.
    """
    known = generator(federation.seed, "sampling", round, *([attempt] if attempt else []))
    rng = secret_generator() if federation.secret else known
    if federation.poisson:
        inside = rng.random(len(federation.clients)) < federation.clients_per_round / len(federation.clients)
        return tuple(federation.clients[i] for i in inside.nonzero()[0].tolist())
    chosen = rng.choice(federation.in_turn(round), size=federation.invited, replace=False)
    return tuple(federation.clients[i] for i in sorted(chosen))


def _counted(
    replies: Iterable[Update | Rejection],
    S_t: tuple[Client, ...],
    m: Mapping[int, Allocation],
    reports: list[ClientReport],
    rejections: list[Rejection],
) -> Iterator[Update]:
    """Yield the updates one by one, and append each client's report (without tensors) or rejection to the lists."""
    tier = {k.id: k.tier for k in S_t}
    for u in replies:
        if isinstance(u, Rejection):
            rejections.append(u)
            continue
        k, a = u.client, m[u.client]
        sizes = (u.bytes_down, u.bytes_up)
        reports.append(ClientReport(k, tier[k], a.blocks, a.policies, u.samples, u.metrics, *sizes, a.ranks))
        yield u
