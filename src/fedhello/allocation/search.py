"""The allocation with the largest preference that fits a budget, by a search over blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float64, Int

from fedhello.allocation.needs import most_flops, needs
from fedhello.costs import KEEP, ActivationPolicy, Costs, Role
from fedhello.types import Allocation, Budget

EQUAL = 1e-9
"""Sums of preferences, as shares of the largest one, closer than this are equal."""


LEAST = 1e-6
"""Positive preferences are raised to at least this share of the largest one, so that rounding does not lose them."""


_ORDER: tuple[ActivationPolicy, ...] = get_args(ActivationPolicy)
_POLICIES = [[policy for i, policy in enumerate(_ORDER) if bits >> i & 1] for bits in range(2 ** len(_ORDER))]
"""Sets of policies, each at the number that has its bits."""


@dataclass
class _Labels:
    """Partial allocations of the blocks from the top down to one: parallel arrays of n entries each.

    Attributes:
        count: Number of trained blocks.
        bytes: Bytes of their factors.
        upload: Bytes of their factors on the wire.
        R: Headroom R_l of these blocks, bytes; see ``allocation.planner``.
        flops: FLOPs that they add to a round.
        used: Which policies they have that need bytes beyond the sums: a bit each.
        value: Σ v_l over the trained ones.
        parent: The entry of the level above that this one extends.
        option: Index of the role and policy of the last block added.
    """

    count: Int[np.ndarray, " n"]
    bytes: Int[np.ndarray, " n"]
    upload: Int[np.ndarray, " n"]
    R: Int[np.ndarray, " n"]
    flops: Int[np.ndarray, " n"]
    used: Int[np.ndarray, " n"]
    value: Float64[np.ndarray, " n"]
    parent: Int[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    option: Int[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def take(self, chosen: Int[np.ndarray, " _"]) -> "_Labels":
        return _Labels(**{name: value[chosen] for name, value in vars(self).items()})

    @staticmethod
    def join(parts: Sequence["_Labels"]) -> "_Labels":
        return _Labels(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def _search(
    v: Float64[np.ndarray, " L"], budget: Budget, costs: Costs, options: dict[Role, tuple[ActivationPolicy, ...]]
) -> Allocation | None:
    """Return the best allocation that fits, or None."""
    L, v = len(v), _shares(v)
    kinds: list[tuple[Role, ActivationPolicy]] = [
        (role, policy) for role in ("trained", "frozen") for policy in options[role]
    ]
    below = np.concatenate([[0.0], np.cumsum(v)])  # below[l] = Σ_{j<l} v_j
    zero = np.zeros(1, dtype=np.int64)
    labels = _Labels(zero, zero, zero, zero + costs.transient_loss, zero, zero, np.zeros(1))
    levels: dict[int, _Labels] = {}

    head_only = Allocation((), (KEEP,) * L)
    best: tuple[float, float, float] | None = None  # value, −FLOPs, −R
    answer: Allocation | None = None
    if costs.head_shared and needs(costs, head_only).within(budget):
        best, answer = (0.0, 0.0, 0.0), head_only

    for l in reversed(range(L)):
        if v[l] > 0:
            for policy in options["trained"]:
                ended = _extended(labels, l, "lowest", policy, 0, v[l], costs)
                ended = ended.take(np.flatnonzero(_fits(ended, budget, costs)))
                if len(ended.value):
                    entry = int(np.lexsort((ended.R, ended.flops, -_rounded(ended.value)))[0])
                    key = (_rounded(ended.value)[entry], -float(ended.flops[entry]), -float(ended.R[entry]))
                    if best is None or key > best:
                        best = key
                        answer = _walked(levels, l, policy, int(ended.parent[entry]), kinds, L)
        # Drop what does not fit, and what cannot reach the best value found.
        parts = [
            _extended(labels, l, role, policy, i, v[l], costs)
            for i, (role, policy) in enumerate(kinds)
            if role == "frozen" or v[l] > 0
        ]
        labels = _Labels.join(parts)
        hopeful = labels.value + below[l] >= (-1.0 if best is None else best[0] - EQUAL)
        labels = _undominated(labels.take(np.flatnonzero(hopeful & _fits(labels, budget, costs))))
        levels[l] = labels
        if not len(labels.value):
            break
    return answer


def _shares(v: Float64[np.ndarray, " L"]) -> Float64[np.ndarray, " L"]:
    """Return preferences divided by the largest one, positive ones at least ``LEAST``."""
    most = v.max()
    return np.where(v > 0, np.maximum(v / most, LEAST), 0.0) if most > 0 else v


def _rounded(value: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Round sums of preferences, so that the order of adding does not decide between equals."""
    result: Float64[np.ndarray, " n"] = np.round(value / EQUAL) * EQUAL
    return result


def _extended(
    labels: _Labels, l: int, role: Role, policy: ActivationPolicy, option: int, value: float, costs: Costs
) -> _Labels:
    trained, n = role != "frozen", len(labels.value)
    s, t = costs.saved[policy, role], costs.transient[policy, role]
    alive = costs.alive_below(l) if role == "lowest" else costs.left.get((policy, role), 0)
    own = costs.block_bytes[l] if trained else 0
    gradients = costs.gradients(labels.bytes, own)
    used = labels.used | _bit(policy, costs)
    once = [costs.held_once(policy, policies) for policies in _POLICIES] if role == "lowest" else [0] * len(_POLICIES)
    return _Labels(
        count=labels.count + trained,
        bytes=labels.bytes + own,
        upload=labels.upload + (costs.block_upload[l] if trained else 0),
        R=s + alive + np.array(once)[used] + np.maximum(t + gradients, labels.R),
        flops=labels.flops + costs.flops[policy, role],
        used=used,
        value=labels.value + (value if trained else 0.0),
        parent=np.arange(n),
        option=np.full(n, option),
    )


def _bit(policy: ActivationPolicy, costs: Costs) -> int:
    """Return the bit of a policy whose use needs bytes beyond the sums, else 0."""
    return 1 << _ORDER.index(policy) if costs.added([policy]) or costs.held_once(KEEP, [policy]) else 0


def _fits(labels: _Labels, budget: Budget, costs: Costs) -> Bool[np.ndarray, " n"]:
    fits = np.ones(len(labels.value), dtype=bool)
    if budget.blocks is not None:
        fits &= labels.count <= budget.blocks
    if budget.memory is not None:
        trained = labels.bytes + costs.head_bytes
        backward = np.maximum(costs.head_only_peak, costs.outside + labels.R + costs.throughout(labels.bytes))
        added = np.array([costs.added(policies) for policies in _POLICIES])[labels.used]
        update = trained * costs.copies + np.where(labels.count > 0, costs.update, 0)
        peak = np.maximum(backward, update) + costs.moments * trained + added
        fits &= peak + costs.reserve <= budget.memory
    if budget.upload is not None:
        fits &= costs.fixed_upload + labels.upload <= budget.upload
    fits &= costs.flops_outside + labels.flops <= most_flops(budget)
    return fits


def _undominated(labels: _Labels) -> _Labels:
    """Drop entries to which another of equal count, sizes, FLOPs and policies is superior in headroom and value."""
    if not len(labels.value):
        return labels
    order = np.lexsort((-labels.value, labels.R, labels.used, labels.flops, labels.upload, labels.bytes, labels.count))
    labels = labels.take(order)
    same = np.ones(len(order) - 1, dtype=bool)
    for column in (labels.count, labels.bytes, labels.upload, labels.flops, labels.used):
        same &= column[1:] == column[:-1]
    group = np.concatenate([[0], np.cumsum(~same)])
    # The best value before each entry of its group: groups are lifted apart, so that one running maximum serves all.
    lift = group * (2 * float(labels.value.max()) + 1)
    lifted = labels.value + lift
    before = np.concatenate([[-np.inf], np.maximum.accumulate(lifted)[:-1]])
    return labels.take(np.flatnonzero(lifted > before + EQUAL))


def _walked(
    levels: dict[int, _Labels],
    lowest: int,
    policy: ActivationPolicy,
    entry: int,
    kinds: Sequence[tuple[Role, ActivationPolicy]],
    L: int,
) -> Allocation:
    """Return the allocation of an entry by following its parents up to the top block."""
    trained, policies = [lowest], [*(KEEP,) * lowest, policy]
    for l in range(lowest + 1, L):
        role, chosen = kinds[int(levels[l].option[entry])]
        policies.append(chosen)
        if role == "trained":
            trained.append(l)
        entry = int(levels[l].parent[entry])
    return Allocation(tuple(trained), tuple(policies))
