"""Rounds of training under differential privacy: every client counts once and within a length, and the sum gets noise.

With δ_k = θ_k − θ over all that client k trains in round t, together, and S_t drawn so that each of the K clients is in
it with probability q, independently and by the operating system's entropy:

    δ̄_k = δ_k min(1, C/‖δ_k‖)
    Δ_j = (Σ_{k ∈ S_t} δ̄_k,j + σ' z_j) / (q K p_j),        z ~ N(0, I),        θ_j ← θ_j + Δ_j

for every entry j that some client may train in the round, whether or not one of S_t did. p_j is the share of all K
clients whose allocation has j, which follows from tiers, round and scores, so the divisor does not depend on who came
or on anybody's data. Nobody is weighed by samples. The noise gets longer with every entry that trains, so few blocks, a
low rank and B alone go furthest; A keeps its first values then (as in FFA-LoRA, arXiv 2403.12313).

Where C adapts (Andrew et al., arXiv 1905.03871), client k adds b_k = ± 1, whether ‖δ_k‖ < C. As one vector of length at
most C √(1 + κ²),

    v_k = (δ̄_k, κ C b_k),        σ' = σ C √(1 + κ²)        for all its entries
    C ← C exp(η (½ − b̄)),        b̄ = ½ + Σ b_k / (2 q K) with its noise, within 0 … 1

so that C follows the median of the lengths, at the cost of √(1 + κ²) in noise. One release has the noise multiplier σ.

With a band of b > 1 rounds, z is the noise of ``fedhello.privacy.banded`` in place of independent noise, clients take
turns so that each is in one of b rounds at most, and one release is that of b rounds. Then nothing depends on how the
clients are drawn, and q is the share of the clients that a round has.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.sums import SumAggregator
from fedhello.factors import along_components, part, spread
from fedhello.privacy.banded import next_noise, remembered
from fedhello.privacy.noise import factor, gaussian
from fedhello.randomness import generator
from fedhello.state import Release
from fedhello.strategy import AggregationContext, AggregationResult, AllocationContext, BoundMethod, all_pass
from fedhello.types import Adapter, Allocation, Client, Factors, Federation, Task, Update

CLIP = "privacy/clip"
"""Name of C in the method state."""

INSIDE = "privacy/inside"
"""Name of Σ b_k among the sums."""

EARLIER = "privacy/noise/"
"""Before the name of a tensor, name of its earlier noise in the method state: z_{t−1}, z_{t−2}, … in units of σ'."""

INSIDE_WEIGHT = 0.1
"""κ: the noise on updates rises by half a percent for it."""

ADAPTION = 0.3
"""η, of C."""

ASKED = 1000
"""Of more clients with equal budgets than this, so many are asked what they would train, and stand for all."""

ROUNDING = 1e-5
"""A client whose length is within so much of C, relatively, counts as having been shortened to it."""


@dataclass(frozen=True)
class PrivateRounds:
    """How rounds are released.

    Attributes:
        release: One round, or b of them: σ, and the rate q for which it counts; 1 with a band.
        rate: q, the share of the clients that a round has on average.
        clip: C of the first round.
        adapts: Whether C follows the median of the clients' lengths.
        factors: The LoRA factors that train.
        last_blocks: Only so many of the blocks nearest to the output train; None for all that the method allocates.
        band: b, the number of rounds whose noise is correlated, and of which a client is in one; 1 for neither.
    """

    release: Release
    rate: float
    clip: float
    adapts: bool = True
    factors: Factors = "B"
    last_blocks: int | None = None
    band: int = 1

    @property
    def joint(self) -> float:
        """√(1 + κ²) with a C that adapts, else 1: the largest length of v_k over C."""
        return math.hypot(1.0, INSIDE_WEIGHT) if self.adapts else 1.0

    def clip_of(self, method_state: Mapping[str, Tensor]) -> float:
        """Return C of a round, given the method's state before it."""
        return float(method_state[CLIP]) if CLIP in method_state else self.clip

    def due(self, round: int, attempt: int = 0) -> bool:
        """Whether an attempt at a round is a release more: the first of b rounds is, and each further attempt."""
        return attempt > 0 or round % self.band == 0


def private_method(method: BoundMethod, settings: PrivateRounds) -> BoundMethod:
    """Return a method whose rounds are releases: who trains what is the method's, how it is combined is as above.

    Args:
        method: One that averages layer by layer.
        settings: How rounds are released.
    """

    def allocate(context: AllocationContext) -> Allocation | None:
        return narrowed(method.allocate(context), context.federation.num_blocks, settings.factors, settings.last_blocks)

    def send(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
        return replace(method.send(adapter, allocation, context), clip=settings.clip_of(context.method_state))

    how = SumAggregator(
        contribute=partial(add_clipped, settings=settings),
        finish=partial(release_sum, settings=settings, allocate=allocate),
        reference=partial(_entries, settings=settings),
        counts=False,
    )
    return replace(method, allocate=allocate, send=send, aggregate=how, screen=all_pass)


def narrowed(found: Allocation | None, L: int, factors: Factors, last_blocks: int | None) -> Allocation | None:
    """Return an allocation with the factors that train, in the last blocks; if it has none there, in its last one.

    Args:
        found: The method's; None for a client that does not take part.
        L: Number of blocks.
        factors: The LoRA factors that train.
        last_blocks: Only so many of the blocks nearest to the output train; None for all that the method allocates.
    """
    if found is None or not found.blocks:
        return None
    blocks = found.blocks
    if last_blocks is not None:
        last = max(set(range(L)) - set(found.absent))
        blocks = tuple(l for l in blocks if l >= L - last_blocks) or (last,)
    return replace(found, blocks=blocks, factors=factors, head=False)


def clipped_update(update: Update, task: Task) -> Update:
    """Return what a client sends under differential privacy: new values within C of its start, and nothing else.

    Args:
        update: What it trained.
        task: Its task, with C and its part of θ.
    """
    assert task.clip is not None
    start = task.adapter.tensors
    moved = {name: value.double() - start[name].double() for name, value in update.tensors.items()}
    f = factor(_length(moved), task.clip)
    tensors = {name: (start[name].double() + f * value).to(start[name].dtype) for name, value in moved.items()}
    return replace(update, tensors=tensors, samples=1, metrics={})


def add_clipped(context: AggregationContext, update: Update, sums: WeightedMean, *, settings: PrivateRounds) -> None:
    """Add v_k of one client.

    Args:
        context: With θ.
        update: The client's new values.
        sums: What it is added to.
        settings: How rounds are released.
    """
    clip = settings.clip_of(context.method_state)
    delta = {}
    for name, value in update.tensors.items():
        before, held = context.adapter.tensors[name].double(), context.components(update, name)
        delta[name] = spread(name, value.double() - part(name, before, held), before, held)
    length = _length(delta)
    f = factor(length, clip)
    for name, value in delta.items():
        sums.add(name, f * value if f else torch.zeros_like(value), 1.0)
    if settings.adapts:
        inside = 1.0 if length < clip * (1 - ROUNDING) else -1.0
        sums.add(INSIDE, torch.tensor([inside * INSIDE_WEIGHT * clip], dtype=torch.float64), 1.0)


def release_sum(
    context: AggregationContext,
    sums: WeightedMean,
    *,
    settings: PrivateRounds,
    allocate: Callable[[AllocationContext], Allocation | None],
) -> AggregationResult:
    """Release the sum with noise, and return the next adapter and C.

    Args:
        context: Of the round.
        sums: Σ v_k of those who came; nothing where nobody did.
        settings: How rounds are released.
        allocate: Who trains what.
    """
    clip, q = settings.clip_of(context.method_state), settings.rate
    deviation = settings.release.noise * clip * settings.joint
    counts, θ = planned_counts(context, allocate), context.adapter.tensors
    shapes = {name: tuple(θ[name].shape) for name in counts} | ({INSIDE: (1,)} if settings.adapts else {})
    noise, after = round_noise(shapes, context.method_state, settings.band)

    def released(name: str) -> Tensor:
        return sums.sums.get(name, torch.zeros(shapes[name], dtype=torch.float64)) + deviation * noise[name]

    tensors = {}
    for name, count in counts.items():
        θ_next = θ[name].double() + released(name) / (q * count.clamp_min(1.0))
        tensors[name] = torch.where(count > 0, θ_next, θ[name].double()).to(θ[name].dtype)
    if settings.adapts:
        inside = 0.5 + float(released(INSIDE)) / (INSIDE_WEIGHT * clip * 2 * q * len(context.federation.clients))
        C = clip * math.exp(ADAPTION * (0.5 - min(max(inside, 0.0), 1.0)))
        after = {**after, CLIP: torch.tensor(C, dtype=torch.float64)}
    return context.then(tensors, after) if after else context.then(tensors)


def round_noise(
    shapes: Mapping[str, tuple[int, ...]], method_state: Mapping[str, Tensor], band: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return z_t of each tensor, and what the next round needs of it and of earlier noise; see ``banded``.

    A tensor's noise goes on through rounds in which it is not released.

    Args:
        shapes: Of the tensors that are released.
        method_state: With the earlier noise.
        band: b.
    """
    if band == 1:
        return {name: gaussian(shape, 1.0) for name, shape in shapes.items()}, {}
    begun = {name.removeprefix(EARLIER): value for name, value in method_state.items() if name.startswith(EARLIER)}
    none = {name: torch.zeros((band - 1, *shape), dtype=torch.float64) for name, shape in shapes.items()}
    noise, after = {}, {}
    for name, earlier in (none | begun).items():
        noise[name] = next_noise(gaussian(tuple(earlier.shape[1:]), 1.0), earlier)
        after[EARLIER + name] = remembered(noise[name], earlier)
    return noise, after


def planned_counts(
    context: AggregationContext, allocate: Callable[[AllocationContext], Allocation | None]
) -> dict[str, Tensor]:
    """Return K p_j: how many of all clients would train each entry in a round, as it broadcasts to the tensors.

    Of more than ``ASKED`` clients with equal budgets, so many stand for all; what none of these would train stays as it
    is in the round.

    Args:
        context: Of the round.
        allocate: Who trains what.
    """
    federation, adapter = context.federation, context.adapter
    alike: dict[Allocation, float] = defaultdict(float)
    for client, times in representatives(federation, context.round):
        own = AllocationContext(client, federation, context.round, context.scores, method_state=context.method_state)
        if (allocation := allocate(own)) is not None:
            alike[replace(allocation, policies=())] += times
    counts: dict[str, Tensor] = {}
    for allocation, times in alike.items():
        for name in adapter.names(allocation):
            held = torch.zeros(federation.rank, dtype=torch.float64)
            held[list(allocation.held(adapter.block_of[name] or 0, federation.rank))] = times
            counts[name] = counts.get(name, torch.zeros(())) + along_components(name, held)
    return dict(sorted(counts.items()))


def representatives(federation: Federation, round: int) -> Iterator[tuple[Client, float]]:
    """Yield clients, and how many clients of equal budgets each of them stands for: all, or ``ASKED`` drawn at random.

    Args:
        federation: The clients.
        round: t, in which others are drawn than in another round.
    """
    for ids in federation.alike.values():
        rng = generator(federation.seed, "representatives", round, ids[0])
        asked = ids if len(ids) <= ASKED else np.sort(rng.choice(ids, ASKED, replace=False)).tolist()
        yield from ((federation.by_id[k], len(ids) / len(asked)) for k in asked)


def released_scores(shares: Sequence[Tensor], release: Release, L: int, expected: float) -> tuple[float, ...]:
    """Return Γ under differential privacy: the mean share of each block, with noise, not below 0.

    A client's shares sum to 1, so that their length is at most 1.

    Args:
        shares: Of each client, or sums of them, shape (L,).
        release: With σ.
        L: Number of blocks.
        expected: q K, how many clients a round has on average.
    """
    total = sum(shares, torch.zeros(L, dtype=torch.float64)) + gaussian((L,), release.noise)
    return tuple((total / expected).clamp_min(0.0).tolist())


def noise_over_clip(noise: float, rate: float, sizes: Mapping[int, int], counts: Mapping[int, int]) -> float:
    """Return the length of the noise on a round's step over the largest mean step, C.

        σ √(Σ_l n_l / p_l²) / (q K)

    Args:
        noise: σ.
        rate: q.
        sizes: Block → n_l, the numbers that train in it.
        counts: Block → K p_l.
    """
    return noise / rate * math.sqrt(sum(n / counts[l] ** 2 for l, n in sizes.items()))


def _entries(context: AggregationContext, *, settings: PrivateRounds) -> dict[str, Tensor]:
    zeros = {name: torch.zeros_like(value) for name, value in context.adapter.tensors.items()}
    return zeros | ({INSIDE: torch.zeros(1)} if settings.adapts else {})


def _length(moved: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in moved.values()))


def anonymous_federation(federation: Federation) -> Federation:
    """Return the federation as the server sees it: every client counts as one sample, of unknown classes."""
    return replace(federation, clients=tuple(replace(one, samples=1, classes=()) for one in federation.clients))
