"""A cap on the weight of one client, since clients state their sample counts themselves.

    n_k ← min(n_k, c · q),        q = the upper quartile of the counts n_j that all clients j of the federation state

Without it, a client that states 2³¹ − 1 samples has the whole weight of every mean. What less than a quarter of the
clients state does not move q: of n ascending counts it is number ⌈3n/4⌉, or the last but one where that is less.

Counts of label-skewed splits differ by nature, and are to stay as they are. Of the demo's data, split over 5, 10 and 20
clients by Dirichlet(0.05), (0.1) and (0.3), 40 times each, the largest count was at most 8 times q in 358 of 360 draws,
and 10.6 and 11.4 times in the others; c is 10. (It was up to 81 times the median, so that a cap by the median would
either change such splits or let one client have most of the weight.)
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from fedhello.strategy import AggregationContext, AggregationResult, BoundMethod
from fedhello.types import Update

MAX_SHARE = 10.0
"""c, where nothing else is asked for."""


def most_samples(counts: Iterable[int], max_share: float | None) -> int | None:
    """Return the most samples that a client weighs for; None for no limit.

    Args:
        counts: n_j that clients state; 0 where a client has not stated one yet.
        max_share: c ≥ 1; None for no limit.

    Example:
        >>> most_samples([60, 60, 70, 2**31 - 1], 10.0)
        700
    """
    return most_of(sorted(count for count in counts if count > 0), max_share)


def most_of(known: Sequence[int], max_share: float | None) -> int | None:
    """Return the same of counts that are above 0 and in ascending order already, without a look at each."""
    if max_share is None or not known:
        return None
    return int(max_share * known[max(0, min(math.ceil(0.75 * len(known)) - 1, len(known) - 2))])


def with_capped_weights(method: BoundMethod, max_share: float | None) -> BoundMethod:
    """Return the method with capped sample counts; the round gets a flag for each client that the cap applies to."""
    if max_share is None:
        return method
    return replace(method, aggregate=partial(average_capped, aggregate=method.aggregate, max_share=max_share))


def average_capped(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    max_share: float,
) -> AggregationResult:
    """Combine updates as the method does, each of them with a capped sample count.

    Args:
        context: Whose federation has the counts that clients state.
        updates: Passed on one by one.
        aggregate: How the method combines them.
        max_share: c ≥ 1.
    """
    most = most_of(context.federation.sizes, max_share)
    flags: list[str] = []
    outcome = aggregate(context, updates if most is None else _capped(updates, most, flags))
    return replace(outcome, flags=(*outcome.flags, *flags)) if flags else outcome


def _capped(updates: Iterable[Update], most: int, flags: list[str]) -> Iterator[Update]:
    for update in updates:
        if update.samples > most:
            flags.append(f"client {update.client} weighs {capped_words(update.samples, most)}")
        yield capped(update, most)


def capped(update: Update, most: int | None) -> Update:
    """Return an update with at most so many samples; batches, which some methods weigh by, shrink by the same factor.

    Args:
        update: Of a client.
        most: The most samples; None for no limit.
    """
    if most is None or update.samples <= most:
        return update
    metrics = dict(update.metrics)
    if "batches" in metrics:
        metrics["batches"] = max(1.0, metrics["batches"] * most / update.samples)
    return replace(update, samples=most, metrics=metrics)


def capped_words(samples: int, most: int) -> str:
    """Return what a cap does to a client's count, for a note."""
    return f"as {most:,} of the {samples:,} samples that it states, since defence.max_share limits it"
