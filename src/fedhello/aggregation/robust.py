"""Defences against clients that are broken or hostile: a screen, a clip, and rules that outvote a few.

A screen and a clip work on the updates before any method combines them, and so does the bound that is on by default
(see ``bound``); a rule takes the place of the layer-wise mean.

    screen   an update is rejected if a factor's norm ‖A_k‖ or ‖B_k‖, or how far it moves a product,
             ‖s (B_k A_k − B A)‖, is more than so many times the median over the round's holders. Both are needed:
             (cB, A/c) has the product of (B, A), and harmless factors may have a product that is none.
    clip     Δ_k = θ_k − θ becomes Δ_k · min(1, C/‖Δ_k‖), one norm over the whole update: under the layer-wise mean a
             client moves the global adapter by at most C · max_l w_k / Σ_{j ∈ C_l} w_j
    rules    coordinate-wise median and trimmed mean (Yin et al., ICML 2018), multi-Krum (Blanchard et al., NeurIPS
             2017; m = n − f − 2), each per tensor over the n clients that hold it, per component where ranks differ,
             and of the head per row over those that hold its class (see ``rows``). Values are not
             weighted by sample counts, which clients state themselves.

The median and the trimmed mean need n ≥ 2f + 1 holders, multi-Krum n ≥ 2f + 3, for f hostile ones. Where a tensor has
fewer, it gets the method's weighted mean (of clipped updates, if there is a clip), and the outcome has a flag that says
so. A screen judges a block by three holders or more. A screen and a rule hold all updates of a round in memory; a clip
alone holds one. None of them sees poisoned data or a backdoor within the usual norms.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fedhello.aggregation.bound import FEWEST, MAX_NORM, Replies, Start, with_bounded_norms
from fedhello.aggregation.rows import held_rows
from fedhello.aggregation.share import MAX_SHARE, with_capped_weights
from fedhello.factors import part
from fedhello.strategy import AggregationContext, AggregationResult, AllocationContext, BoundMethod
from fedhello.types import LORA_A, LORA_B, Adapter, Rejection, Update

RobustRule = Literal["mean", "median", "trimmed-mean", "multi-krum"]


@dataclass(frozen=True)
class Defence:
    """What a federation does about clients that are broken or hostile.

    Attributes:
        screen: How many times the median norm an update may have; None screens nothing.
        clip: C, the largest norm of an update; None clips nothing.
        rule: How values combine; ``mean`` leaves it to the method.
        byzantine: f, the number of hostile holders of a tensor that the rule tolerates.
        max_share: c, how many times the upper quartile of all sample counts a client may weigh; None caps nothing.
        max_norm: c, how many times as far as usual an update may move the model; None bounds nothing.
    """

    screen: float | None = None
    clip: float | None = None
    rule: RobustRule = "mean"
    byzantine: int = 1
    max_share: float | None = MAX_SHARE
    max_norm: float | None = MAX_NORM

    @property
    def fewest(self) -> int:
        """How many holders of a tensor the rule needs."""
        return {"mean": 1, "multi-krum": 2 * self.byzantine + 3}.get(self.rule, 2 * self.byzantine + 1)


def defended(method: BoundMethod, defence: Defence) -> BoundMethod:
    """Return the method with its defences; for a rule other than the mean it must average layer by layer."""

    def start(context: AggregationContext) -> Start:
        clients = context.federation.by_id

        def of(k: int) -> Adapter:
            own = AllocationContext(clients[k], context.federation, context.round, method_state=context.method_state)
            return method.send(context.adapter, context.allocations[k], own).adapter

        return of

    def screen(context: AggregationContext, replies: Replies) -> Replies:
        if defence.screen is not None:
            replies = screened(replies, start(context), context.federation.scale, defence.screen)
        return replies if defence.clip is None else clipped(replies, start(context), defence.clip)

    found = with_capped_weights(replace(method, screen=screen), defence.max_share)
    found = with_bounded_norms(found, defence.max_norm, defence.max_share, start)
    if defence.rule == "mean":
        return found
    return replace(found, aggregate=partial(combine, aggregate=found.aggregate, defence=defence))


def clipped(replies: Replies, start: Start, most: float) -> Iterator[Update | Rejection]:
    """Shorten each update's Δ to a norm of at most ``most``; its metric ``update_norm`` says what it was before."""
    for reply in replies:
        if isinstance(reply, Rejection):
            yield reply
            continue
        before = start(reply.client).tensors
        change = {name: value.double() - before[name].double() for name, value in reply.tensors.items()}
        norm = _norm(change.values())
        tensors = reply.tensors
        if norm > most:
            tensors = {
                name: (before[name].double() + moved * (most / norm)).to(before[name].dtype)
                for name, moved in change.items()
            }
        yield replace(reply, tensors=tensors, metrics={**reply.metrics, "update_norm": norm})


def screened(replies: Replies, start: Start, scale: float, times: float) -> Iterator[Update | Rejection]:
    """Reject the updates of which any norm is more than ``times`` the median over those who have it too.

    Args:
        replies: Of one round; all are held before the first is passed on.
        start: What each client started from.
        scale: s.
        times: > 1.
    """
    held = list(replies)
    norms = {u.client: update_norms(u.tensors, start(u.client), scale) for u in held if isinstance(u, Update)}
    names = {name for found in norms.values() for name in found}
    limits = {name: _limit([found[name] for found in norms.values() if name in found], times) for name in names}
    for reply in held:
        if isinstance(reply, Update):
            found = norms[reply.client]
            beyond = [name for name in sorted(found) if found[name] > limits[name]]
            yield reply if not beyond else _rejected(reply, beyond[0], found[beyond[0]], limits[beyond[0]])
        else:
            yield reply


def _rejected(update: Update, name: str, norm: float, limit: float) -> Rejection:
    detail = f"expected {name} to be at most {limit:.3g}, by the median of its holders; found {norm:.3g}"
    sizes = (update.bytes_down, update.bytes_up)
    return Rejection(update.client, update.round, "out of bounds", detail, *sizes)


def _limit(norms: list[float], times: float) -> float:
    """Return the largest norm that passes; infinity with fewer than ``FEWEST`` norms or a median of 0."""
    median = float(torch.tensor(norms, dtype=torch.float64).quantile(0.5))
    return times * median if len(norms) >= FEWEST and median > 0 else float("inf")


def update_norms(tensors: Mapping[str, Tensor], start: Adapter, scale: float) -> dict[str, float]:
    """Return the norms that a screen compares, by a description of the tensor or module.

    Args:
        tensors: The new values.
        start: What the client started from, with tensors of the same shapes.
        scale: s.

    Returns:
        ‖A‖ and ‖B‖ of the new factors, ‖s (B' A' − B A)‖ of each module, ‖x' − x‖ of any other tensor.
    """
    found = {}
    for name, value in tensors.items():
        if name.endswith((LORA_A, LORA_B)):
            found[f"‖{name}‖"] = _norm([value])
        else:
            found[f"the change of {name}"] = _norm([value.double() - start.tensors[name].double()])
    for module in {
        name.removesuffix(LORA_A).removesuffix(LORA_B) for name in tensors if name.endswith((LORA_A, LORA_B))
    }:
        A, B = (start.tensors.get(module + which) for which in (LORA_A, LORA_B))
        if A is not None and B is not None:
            new_A, new_B = tensors.get(module + LORA_A, A), tensors.get(module + LORA_B, B)
            found[f"the change of {module}"] = scale * _product_change(new_B, new_A, B, A)
    return found


def _product_change(
    new_B: Float[Tensor, "d_out r"],
    new_A: Float[Tensor, "r d_in"],
    B: Float[Tensor, "d_out r"],
    A: Float[Tensor, "r d_in"],
) -> float:
    """Return ‖B' A' − B A‖ from 2r × 2r matrices: with U = [B' −B] and V = [A'; A], ‖U V‖² = Σ (UᵀU) ∘ (V Vᵀ)."""
    U, V = torch.cat([new_B, -B], dim=1).double(), torch.cat([new_A, A]).double()
    return float(((U.T @ U) * (V @ V.T)).sum().clamp_min(0).sqrt())


def _norm(values: Iterable[Float[Tensor, "..."]]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))


def combine(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    defence: Defence,
) -> AggregationResult:
    """Combine each tensor by a robust rule over its holders.

    Args:
        context: With θ.
        updates: All of a round; they are held together.
        aggregate: The layer-wise mean, for tensors with too few holders.
        defence: The rule, and f.

    Returns:
        The outcome; a flag names the blocks with too few holders.
    """
    held = list(updates)
    plain = aggregate(context, held)
    tensors, few = dict(plain.adapter.tensors), set()
    for name in sorted({name for update in held for name in update.tensors}):
        for components, holders in _groups(context, held, name):
            if len(holders) < defence.fewest:
                few.add((context.adapter.block_of[name], len(holders)))
                continue
            values = torch.stack([_at(context, update, name, components) for update in holders]).double()
            tensors[name] = _with_part(name, tensors[name], components, _rule(values, defence))
    return replace(context.then(tensors), flags=(*plain.flags, *_flags(few, defence)))


def _groups(
    context: AggregationContext, updates: list[Update], name: str
) -> Iterator[tuple[tuple[int, ...], list[Update]]]:
    """Yield the components, or rows, of a tensor that the same clients hold, and those clients."""
    mine = [update for update in updates if name in update.tensors]
    by_rows = name in context.federation.class_rows
    if not by_rows and all(update.tensors[name].shape == context.adapter.tensors[name].shape for update in mine):
        yield (), mine
        return
    size = len(context.adapter.tensors[name]) if by_rows else context.federation.rank
    held = [held_rows(context, u, name) if by_rows else context.components(u, name) for u in mine]
    together: dict[tuple[int, ...], list[int]] = {}
    for j in range(size):
        holders = tuple(i for i, own in enumerate(held) if j in own)
        together.setdefault(holders, []).append(j)
    for holders, components in together.items():
        if holders:
            yield tuple(components), [mine[i] for i in holders]


def _at(context: AggregationContext, update: Update, name: str, components: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Return a client's values at some of the global components or rows; at none, all of them."""
    value = update.tensors[name]
    if not components:
        return value
    if name in context.federation.class_rows:
        return value[list(components)]
    own = context.components(update, name)
    return part(name, value, [own.index(j) for j in components])


def _with_part(
    name: str, value: Float[Tensor, "*whole"], components: tuple[int, ...], new: Float[Tensor, "..."]
) -> Float[Tensor, "*whole"]:
    if not components:
        return new.to(value.dtype)
    result = value.clone()
    where = (slice(None), list(components)) if name.endswith(LORA_B) else (list(components),)
    result[where] = new.to(value.dtype)
    return result


def _rule(values: Float64[Tensor, " n *shape"], defence: Defence) -> Float64[Tensor, "*shape"]:
    """Combine n values, stacked along the first axis, by the rule."""
    n = len(values)
    if defence.rule == "multi-krum":
        return values[_least_odd(values, defence.byzantine)].mean(dim=0)
    cut = (n - 1) // 2 if defence.rule == "median" else defence.byzantine
    return values.sort(dim=0).values[cut : n - cut].mean(dim=0)


def _least_odd(values: Float64[Tensor, "n ..."], f: int) -> list[int]:
    """Return the n − f − 2 of n values that are nearest to their n − f − 2 nearest neighbours, ascending."""
    n, flat = len(values), values.flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    distances.fill_diagonal_(float("inf"))
    scores = distances.sort(dim=1).values[:, : n - f - 2].sum(dim=1)
    return sorted(scores.argsort(stable=True)[: n - f - 2].tolist())


def _flags(few: set[tuple[int | None, int]], defence: Defence) -> tuple[str, ...]:
    if not few:
        return ()
    where = ", ".join(
        f"{'the head' if block is None else f'block {block}'} ({count})" for block, count in sorted(few, key=str)
    )
    mean = "plain mean" if defence.clip is None else "mean of clipped updates"
    return (f"{defence.rule} with byzantine: {defence.byzantine} needs {defence.fewest} holders; {mean} of {where}",)
