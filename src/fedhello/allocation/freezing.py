"""Close blocks for good from below, as fast as they come to rest: progressive freezing.

Every n rounds the lowest open block closes if its factors moved no more than the median of the open blocks' did:

    score_l = mean of ‖θ_l^{t+1} − θ_l^t‖ over those of the last n rounds in which somebody trained block l

A block that nobody trained has no score: it neither closes nor counts. A closed block is never trained again, by any
client, so backward ends above it and what stands below the lowest open block is the same for all clients and rounds;
a tier's ``cache`` then keeps it over rounds. The last block stays open. Blocks close in order, and by comparison with
the others, so that a falling learning rate closes none by itself; as in AutoFreeze (Liu et al. 2021, arXiv
2102.01386), which compares the changes of gradients in one centralised training.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedhello.strategy import AggregationContext, AggregationResult, AllocationContext, BoundMethod
from fedhello.types import Allocation, Update

Rounds = Annotated[int, Field(ge=1)]
CLOSED, MOVED, TIMES = "freezing/closed", "freezing/moved", "freezing/times"
"""Names in the method state: the number of closed blocks, and of each block Σ‖Δθ_l‖ and its number of rounds."""


def open_for_good() -> None:
    """For methods whose blocks never close."""


def from_below(*, freeze_from_below: Rounds | None = None) -> int | None:
    """For methods whose blocks close from below every ``freeze_from_below`` rounds; None closes none."""
    return freeze_from_below


def within_open_blocks(
    context: AllocationContext, *, allocate: Callable[[AllocationContext], Allocation | None]
) -> Allocation | None:
    """Allot as the method does, but closed blocks to nobody.

    Args:
        context: With the number of closed blocks in its method state.
        allocate: The method's allocator, which keeps to ``AllocationContext.closed``.
    """
    return allocate(replace(context, closed=closed_blocks(context.method_state)))


def closed_blocks(method_state: Mapping[str, Tensor]) -> int:
    """Return how many blocks are closed.

    Args:
        method_state: The method's state.
    """
    return int(method_state[CLOSED]) if CLOSED in method_state else 0


def with_freezing(method: BoundMethod) -> BoundMethod:
    """Return a method that watches how far blocks move, and closes them; itself where blocks never close."""
    if method.freeze_every is None:
        return method
    return replace(method, aggregate=partial(watched, aggregate=method.aggregate, every=method.freeze_every))


def watched(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    every: int,
) -> AggregationResult:
    """Combine updates as the method does, and close the lowest open block if it is time and has come to rest.

    Args:
        context: With θ.
        updates: Passed on.
        aggregate: How the method combines them.
        every: n.
    """
    result = aggregate(context, updates)
    before, L = context.adapter, context.federation.num_blocks
    squares = torch.zeros(L, dtype=torch.float64)
    for name, value in result.adapter.tensors.items():
        old, block = before.tensors.get(name), before.block_of.get(name)
        if block is not None and old is not None and old is not value:
            squares[block] += (value.double() - old.double()).square().sum()
    state, nothing = result.method_state, torch.zeros(L, dtype=torch.float64)
    moved, times = state.get(MOVED, nothing) + squares.sqrt(), state.get(TIMES, nothing) + (squares > 0)
    closed = closed_blocks(state)
    if (context.round + 1) % every == 0:
        closed += at_rest((moved / times).tolist()[closed:])
        moved, times = nothing, nothing
    return replace(result, method_state={**state, MOVED: moved, TIMES: times, CLOSED: torch.tensor(closed)})


def at_rest(scores: list[float]) -> bool:
    """Return whether the lowest of several open blocks closes.

    Args:
        scores: How far each open block moved, from below; NaN for one that nobody trained, which says nothing.

    Example:
        >>> at_rest([1.0, 3.0, 2.0]), at_rest([3.0, 2.0, 1.0]), at_rest([0.0]), at_rest([float("nan"), 1.0])
        (True, False, False, False)
    """
    known = torch.tensor(scores, dtype=torch.float64)
    return len(scores) > 1 and scores[0] <= float(known.nanquantile(0.5))
