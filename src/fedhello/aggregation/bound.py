"""A bound on how far one client moves the model in a round, by how far the others do.

    u_k = ‖θ_k − θ‖ / √(numbers that client k trained) / √n_k,        u_k ≤ c · median of u_j over the round's clients j

by itself for the blocks' factors and for the head. Per trained number, since who trains one block has a shorter update
than who trains six; over all blocks together, since a block may have one holder or two, of whom nobody can say which is
odd. By √n_k, since who has more samples takes more steps; n_k is capped as in ``share``.

An update beyond the bound is shortened to what the bound allows a client of the median count, and weighs no more than
such a client: with the length of several and the weight of several more it would still be many clients in one. Updates
within the bound stay as they are, to the bit.

The first updates of a round wait for the third; then each is judged by those that came before it and itself, and passed
on: three are held in memory, however many clients answer. Of an even number the lower median counts. Of two clients
nobody can say which is odd. Where rounds may be so small, they are judged by the median over the last ``REMEMBERED``
lengths of earlier rounds, which the method's state holds as they counted; until there are three, nothing is bounded.

AdamW's steps are of one size in every tensor, so its updates differ little in u; with SGD they do more. In honest runs
of the demo's model, with skewed clients, tiers of one to six blocks and one to four epochs, u was at most 1.6 times the
median under AdamW and 3.7 times under SGD (``benchmarks/robustness.py --only lengths``); c is 5.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median_low
from types import MappingProxyType

import torch
from torch import Tensor

from fedhello.aggregation.share import capped, most_of
from fedhello.strategy import AggregationContext, AggregationResult, BoundMethod
from fedhello.types import LORA_A, LORA_B, Adapter, Federation, Rejection, Update

MAX_NORM = 5.0
"""c, where nothing else is asked for."""

FEWEST = 3
"""Fewest clients of which a median outvotes one."""

REMEMBERED = 15
"""How many lengths of earlier rounds are remembered for small ones."""

USUAL = "usual/"
"""Prefix of their names in the method's state, before ``blocks`` and ``head``."""

TIMES_USUAL = "times_usual"
"""Metric of an update that was shortened: how many times the median its u was."""

Start = Callable[[int], Adapter]
"""Client id → the adapter that it started from."""

Replies = Iterable[Update | Rejection]


@dataclass(frozen=True)
class Bound:
    """How long updates may be in a federation.

    Attributes:
        times: c.
        typical: The median of the sample counts that all clients state.
        most: The most samples that a client counts for; None for no limit.
    """

    times: float
    typical: int
    most: int | None

    def samples(self, update: Update) -> int:
        """Return n_k, by which the length of an update is judged."""
        return update.samples if self.most is None else min(update.samples, self.most)


def bound_of(federation: Federation, times: float, max_share: float | None) -> Bound:
    """Return the bound in a federation.

    Args:
        federation: With the counts that clients state.
        times: c > 1.
        max_share: The cap on a client's weight; see ``share``.
    """
    counts = federation.sizes
    return Bound(times, counts[(len(counts) - 1) // 2] if counts else 1, most_of(counts, max_share))


def with_bounded_norms(
    method: BoundMethod, times: float | None, max_share: float | None, starts: Callable[[AggregationContext], Start]
) -> BoundMethod:
    """Return the method with a bound on the length of updates; the round gets a flag for each client beyond it.

    Args:
        method: Any.
        times: c > 1; None for no bound.
        max_share: The cap on a client's weight; see ``share``.
        starts: What each client of a round started from.
    """
    if times is None:
        return method

    def screen(context: AggregationContext, replies: Replies) -> Replies:
        bound = bound_of(context.federation, times, max_share)
        return bounded(method.screen(context, replies), starts(context), bound, _remembered(context))

    aggregate = partial(average_bounded, aggregate=method.aggregate, times=times, max_share=max_share, starts=starts)
    return replace(method, screen=screen, aggregate=aggregate)


def _remembered(context: AggregationContext) -> dict[str, list[float]]:
    """Return the lengths of earlier rounds by part, the last ones last."""
    state = context.method_state
    return {name.removeprefix(USUAL): value.tolist() for name, value in state.items() if name.startswith(USUAL)}


def _may_be_small(federation: Federation) -> bool:
    """Whether a round of too few clients for a median may count, and their lengths are no secret."""
    return (federation.quorum < FEWEST or federation.poisson) and not federation.secret


def bounded(
    replies: Replies, start: Start, bound: Bound, before: Mapping[str, Sequence[float]] = MappingProxyType({})
) -> Iterator[Update | Rejection]:
    """Shorten the updates of a round that are too long; their metric ``times_usual`` says how long they were.

    Args:
        replies: At most two updates are held back, until a third has come.
        start: What each client started from.
        bound: How long they may be.
        before: Part → lengths of earlier rounds, by which a round of fewer than ``FEWEST`` updates is judged.
    """
    seen: dict[str, list[float]] = {}
    waiting: list[tuple[Update | Rejection, dict[str, float]]] = []

    def judged() -> Iterator[Update | Rejection]:
        known = {part: found if len(found) >= FEWEST else before.get(part, ()) for part, found in seen.items()}
        usual = {part: median_low(found) for part, found in known.items() if len(found) >= FEWEST}
        for reply, own in waiting:
            times = {part: own[part] / usual[part] for part in own if usual.get(part, 0.0) > 0}
            if isinstance(reply, Update) and any(found > bound.times for found in times.values()):
                yield _shortened(reply, start(reply.client).tensors, times, bound)
            else:
                yield reply
        waiting.clear()

    for reply in replies:
        own = {}
        if isinstance(reply, Update):
            own = lengths(reply.tensors, start(reply.client).tensors, bound.samples(reply))
        for part, length in own.items():
            seen.setdefault(part, []).append(length)
        waiting.append((reply, own))
        if all(len(found) >= FEWEST for found in seen.values()):
            yield from judged()
    yield from judged()


def lengths(tensors: Mapping[str, Tensor], start: Mapping[str, Tensor], samples: int) -> dict[str, float]:
    """Return u of the ``blocks`` and of the ``head``, as far as an update has them.

    Args:
        tensors: The new values.
        start: What the client started from, with tensors of the same shapes.
        samples: n_k.
    """
    squares: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for name, value in tensors.items():
        part = _part(name)
        squares[part] = squares.get(part, 0.0) + float((value.double() - start[name].double()).square().sum())
        numbers[part] = numbers.get(part, 0) + value.numel()
    return {part: math.sqrt(squares[part] / (numbers[part] * samples)) for part in squares if numbers[part]}


def _part(name: str) -> str:
    return "blocks" if name.endswith((LORA_A, LORA_B)) else "head"


def _shortened(update: Update, start: Mapping[str, Tensor], times: Mapping[str, float], bound: Bound) -> Update:
    n = bound.samples(update)
    allowed = bound.times * math.sqrt(min(n, bound.typical) / n)
    tensors = dict(update.tensors)
    for name, value in update.tensors.items():
        found, before = times.get(_part(name), 0.0), start[name].double()
        if found > bound.times:
            tensors[name] = (before + (value.double() - before) * (allowed / found)).to(value.dtype)
    return replace(update, tensors=tensors, metrics={**update.metrics, TIMES_USUAL: max(times.values())})


def average_bounded(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    times: float,
    max_share: float | None,
    starts: Callable[[AggregationContext], Start],
) -> AggregationResult:
    """Combine updates as the method does, those that were shortened with at most the weight of the median client.

    Args:
        context: Of the round.
        updates: Passed on one by one.
        aggregate: How the method combines them.
        times: c.
        max_share: The cap on a client's weight; see ``share``.
        starts: What each client of a round started from.
    """
    bound, start = bound_of(context.federation, times, max_share), starts(context)
    flags: list[str] = []
    known = _remembered(context)

    def weighed() -> Iterator[Update]:
        for update in updates:
            if _may_be_small(context.federation):
                own = lengths(update.tensors, start(update.client).tensors, bound.samples(update))
                known.update({part: [*known.get(part, []), length] for part, length in own.items()})
            if TIMES_USUAL in update.metrics:
                flags.append(_said(update, bound))
                update = capped(update, bound.typical)
            yield update

    outcome = aggregate(context, weighed())
    usual = {USUAL + part: torch.tensor(found[-REMEMBERED:], dtype=torch.float64) for part, found in known.items()}
    state = {**outcome.method_state, **usual} if usual else outcome.method_state
    return replace(outcome, method_state=state, flags=(*outcome.flags, *flags))


def _said(update: Update, bound: Bound) -> str:
    return (
        f"client {update.client} moved the model {update.metrics[TIMES_USUAL]:.3g} times as far as is usual; "
        f"it counts as {bound.times:g} times, with the weight of {min(bound.typical, update.samples):,} "
        "samples, since defence.max_norm limits it"
    )
