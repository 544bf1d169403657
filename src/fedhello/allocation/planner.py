"""Allocate by bytes: from what a method prefers and a client can afford to the blocks it trains, and how.

A method gives every block l a preference v_l ≥ 0. The planner returns the blocks S and a policy per block that

    maximise    Σ_{l ∈ S} v_l
    subject to  peak(S, policies) + reserve ≤ memory,    upload(S) ≤ its bytes,    FLOPs(S, policies) / speed ≤ seconds,

and among equals those that take least time, then least memory. With m the lowest block of S, a step holds (bytes)

    saved = outside + Σ_{l ≥ m} s_l
    peak  = max( backward, trained bytes ) + moments · trained bytes
    backward = max( head only,  outside + max_l ( Σ_{m ≤ j ≤ l} s_j + t_l + Σ_{j > l} g_j ) )

where s_l is what block l holds for backward, t_l what work on it needs for a moment, and g_j the gradients of block
j; s and t follow from the block's policy and role, 0 below m. Backward goes from top to bottom, hence the sums.

The search is exact. It walks from the top block down and keeps, for each number of trained blocks, trained bytes and
FLOPs so far, the headroom that the blocks above need

    R_l = s_l + max( t_l + Σ_{j > l} g_j,  R_{l+1} )

against the preference gathered, dropping whatever is worse in both. Blocks of one model cost alike, so few such
combinations differ: some thousands for 40 blocks.

Rules say which policies are allowed:

    keep               autograd saves what it needs
    recompute-frozen   trained blocks keep, frozen ones that backward passes recompute
    recompute          all recompute
    compress           all compress
    auto               each keeps or recomputes, whatever fits and takes least time; gradients stay exact
    auto-compress      each keeps, recomputes or compresses; compressing rounds what backward sees
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from fedhello.types import (
    KEEP,
    Allocation,
    Budget,
    ClientReport,
    Costs,
    Federation,
    Policy,
    Rejection,
    Role,
    Rule,
    Situation,
)

OPTIONS: dict[Rule, dict[Role, tuple[Policy, ...]]] = {
    "keep": {"trained": ("keep",), "frozen": ("keep",)},
    "recompute-frozen": {"trained": ("keep",), "frozen": ("recompute",)},
    "recompute": {"trained": ("recompute",), "frozen": ("recompute",)},
    "compress": {"trained": ("compress",), "frozen": ("compress",)},
    "auto": {"trained": ("keep", "recompute"), "frozen": ("keep", "recompute")},
    "auto-compress": {
        "trained": ("keep", "recompute", "compress"),
        "frozen": ("keep", "recompute", "compress"),
    },
}

EQUAL = 1e-9
"""Sums of preferences, as shares of the largest one, closer than this are equal."""

LEAST = 1e-6
"""Share of the largest preference that a block is wanted at least, however small its own, unless that is 0."""


@dataclass(frozen=True)
class Needs:
    """What an allocation takes: a step's bytes above the loaded model, FLOPs and upload bytes of a round.

    Attributes:
        saved_bytes: Held for backward.
        peak_bytes: Of tensors.
        memory_bytes: The peak with the reserve: what must fit the budget.
        flops: Of the round.
        upload_bytes: On the wire.
    """

    saved_bytes: int
    peak_bytes: int
    memory_bytes: int
    flops: int
    upload_bytes: int

    def within(self, budget: Budget) -> bool:
        """Whether all of it fits a budget."""
        memory = budget.memory is None or self.memory_bytes <= budget.memory
        upload = budget.upload is None or self.upload_bytes <= budget.upload
        return memory and upload and self.flops <= most_flops(budget)


def most_flops(budget: Budget) -> float:
    """Return how many FLOPs per round a budget allows; infinity where it does not say."""
    if budget.seconds is None or budget.speed is None:
        return float("inf")
    return budget.seconds * budget.speed


def fit(situation: Situation, preference: Sequence[float] | np.ndarray) -> Allocation:
    """Return what the client of a situation trains, given what a method prefers.

    A budget that counts blocks takes the c most preferred, which is what the papers do. A client that went over its
    memory budget in an earlier round is planned as if all its bytes counted as many times as they did then.

    Args:
        situation: Client, federation and round.
        preference: v, length L; a block with v_l = 0 is not wanted.
    """
    budget, costs = means(situation)
    v = tuple(float(x) for x in preference)
    return replace(plan(budget, v, costs, situation.federation.rule), preference=v)


def means(situation: Situation) -> tuple[Budget, Costs | None]:
    """Return what the client of a situation can spend, and what blocks cost it; None where nothing is predicted."""
    client, federation = situation.client, situation.federation
    budget = client.budget
    if budget.memory is not None:
        budget = replace(budget, memory=int(budget.memory / situation.excess))
    return budget, federation.costs[client.tier] if federation.costs else None


def plan_tiers(federation: Federation, preference: Sequence[float] | np.ndarray) -> list[tuple[int, ...]]:
    """Return the blocks that each tier can afford of one preference; none for a tier without clients."""
    costs = federation.costs or (None,) * len(federation.tiers)
    present = {client.tier for client in federation.clients}
    return [
        plan(budget, tuple(preference), costs[g], federation.rule).blocks if g in present else ()
        for g, budget in enumerate(federation.tiers)
    ]


@lru_cache(maxsize=1024)  # the clients of a tier often ask for the same
def plan(budget: Budget, preference: tuple[float, ...], costs: Costs | None, rule: Rule = "keep") -> Allocation:
    """Return the blocks and policies that a budget affords.

    Args:
        budget: What may be spent.
        preference: v, length L.
        costs: What blocks cost; None only for budgets that count blocks.
        rule: The policies allowed.

    Returns:
        The best allocation. Where none fits, the cheapest there is, so that the client shows what it needs.
    """
    v = np.asarray(preference, dtype=np.float64)
    if budget.only_counts or costs is None:
        if budget.blocks is None or not budget.only_counts:
            raise ValueError(f"expected the costs of blocks beside a budget in bytes or seconds; found {budget}")
        # A stable sort, so that of equals the lowest come first.
        wanted = [int(l) for l in np.argsort(-v, kind="stable")[: budget.blocks] if v[l] > 0]
        return Allocation(tuple(sorted(wanted)), fixed_policies(rule, wanted, len(v)))
    found = _search(v, budget, costs, OPTIONS[rule])
    return found if found is not None else cheapest(costs, rule)


def least_memory(blocks: Sequence[int], costs: Costs, rule: Rule) -> Allocation:
    """Return the allocation of certain blocks that takes least memory."""
    wanted = tuple(1.0 if l in blocks else 0.0 for l in range(len(costs.block_bytes)))
    enough = plan(Budget(memory=2**62), wanted, costs, rule)
    low, high = 0, needs(costs, enough).memory_bytes
    while low < high:
        middle = (low + high) // 2
        found = plan(Budget(memory=middle), wanted, costs, rule)
        if found.blocks == enough.blocks and needs(costs, found).memory_bytes <= middle:
            high, enough = needs(costs, found).memory_bytes, found
        else:
            low = middle + 1
    return enough


def fixed_policies(rule: Rule, trained: Sequence[int], blocks: int) -> tuple[Policy, ...]:
    """Return the policy of each block under a rule, without regard to a budget: the first that the rule allows.

    Example:
        >>> fixed_policies("recompute-frozen", trained=(1, 3), blocks=5)
        ('keep', 'keep', 'recompute', 'keep', 'recompute')
    """
    lowest = min(trained, default=blocks)
    options = OPTIONS[rule]
    return tuple("keep" if l < lowest else options["trained" if l in trained else "frozen"][0] for l in range(blocks))


def cheapest(costs: Costs, rule: Rule) -> Allocation:
    """Return what needs least memory: the head alone if the clients share it, else the last block and the head."""
    L = len(costs.block_bytes)
    if costs.head_shared:
        return Allocation((), (KEEP,) * L)
    choices = [Allocation((L - 1,), (*(KEEP,) * (L - 1), policy)) for policy in OPTIONS[rule]["trained"]]
    return min(choices, key=lambda a: needs(costs, a).peak_bytes)


def needs(costs: Costs, allocation: Allocation, first_step: bool = False) -> Needs:
    """Return what an allocation takes, by the formulas above.

    The optimiser's step itself holds all gradients and moments, which is more than backward where activations are few.
    In the ``first_step`` of a round there are no moments yet during backward.

    Two figures are bounds: where one factor of a pair trains, both are counted; and blocks that a sub-model leaves out
    still count in its forward FLOPs.
    """
    trained, policies = set(allocation.blocks), allocation.policies
    L = len(costs.block_bytes)
    lowest = min(trained, default=L)
    at = {l: costs.at_rank(len(allocation.held(l, costs.rank))) for l in trained}
    size = {l: at[l].block_bytes[l] for l in trained}
    held = costs.outside if trained else costs.outside_head_only
    above = sum(size.values())
    peak, flops = costs.head_only_peak, costs.flops_outside
    for l in range(lowest, L):
        if l in allocation.absent:
            continue
        role: Role = "lowest" if l == lowest else "trained" if l in trained else "frozen"
        kind = (policies[l] if policies else KEEP, role)
        above -= size.get(l, 0)
        held += costs.saved[kind]
        peak = max(peak, held + costs.transient[kind] + above)
        flops += costs.flops[kind]
    trained_bytes = sum(size.values()) + costs.head_bytes
    upload = costs.fixed_upload + sum(at[l].block_upload[l] for l in trained)
    state = costs.moments * trained_bytes
    peak = max(peak if first_step else peak + state, trained_bytes + state)
    return Needs(held, peak, peak + costs.reserve, flops, upload)


OUT_OF_MEMORY = 1.25
"""How many times its prediction a client is taken to need that ran out of memory before anything was measured."""


def measured_excess(
    federation: Federation,
    reports: Sequence[ClientReport],
    before: Mapping[int, float],
    rejections: Sequence[Rejection] = (),
) -> dict[int, float]:
    """Return, for each client that went over its memory budget, how many times its prediction it needed at most so far.

    Args:
        federation: Knows the budgets.
        reports: With the metrics ``peak_bytes`` (of tensors) and ``process_bytes`` (of the process), as far as they
            were measured, and ``predicted_memory_bytes``.
        before: The same of earlier rounds.
        rejections: A client that ran out of memory measured nothing; each time it is taken to need a quarter more.
    """
    found = {r.client: before.get(r.client, 1.0) * OUT_OF_MEMORY for r in rejections if r.reason == "over budget"}
    for report in reports:
        memory, metrics = federation.tiers[report.tier].memory, report.metrics
        measured = max(metrics.get("peak_bytes", 0.0), metrics.get("process_bytes", 0.0))
        if memory is not None and measured > memory:
            times = measured / metrics["predicted_memory_bytes"]
            found[report.client] = max(1.0, times, before.get(report.client, 1.0))
    return found


@dataclass
class _Labels:
    """Ways to go from the top down to a block: parallel arrays, one entry per way.

    Attributes:
        count: Trained blocks.
        bytes: Of their factors.
        upload: Of their factors, on the wire.
        R: Headroom that they and the frozen blocks among them need.
        flops: That they add.
        value: Preference gathered.
        parent: Entry of the level above that this one came from.
        option: Which role and policy was added.
    """

    count: np.ndarray
    bytes: np.ndarray
    upload: np.ndarray
    R: np.ndarray
    flops: np.ndarray
    value: np.ndarray
    parent: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    option: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def take(self, chosen: np.ndarray) -> "_Labels":
        return _Labels(**{name: value[chosen] for name, value in vars(self).items()})

    @staticmethod
    def join(parts: Sequence["_Labels"]) -> "_Labels":
        return _Labels(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def _search(v: np.ndarray, budget: Budget, costs: Costs, options: dict[Role, tuple[Policy, ...]]) -> Allocation | None:
    """Return the best allocation that fits, or None."""
    L, v = len(v), _shares(v)
    kinds: list[tuple[Role, Policy]] = [(role, policy) for role in ("trained", "frozen") for policy in options[role]]
    below = np.concatenate([[0.0], np.cumsum(v)])  # below[l] = Σ_{j<l} v_j
    zero = np.zeros(1, dtype=np.int64)
    labels = _Labels(zero, zero, zero, zero, zero, np.zeros(1))
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
        # Never go on with what no longer fits, nor with what cannot become as good as the best.
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


def _shares(v: np.ndarray) -> np.ndarray:
    """Return preferences as shares of the largest one, so that what is wanted at all counts."""
    most = v.max()
    return np.where(v > 0, np.maximum(v / most, LEAST), 0.0) if most > 0 else v


def _rounded(value: np.ndarray) -> np.ndarray:
    """Round sums of preferences, so that the order of adding does not decide between equals."""
    result: np.ndarray = np.round(value / EQUAL) * EQUAL
    return result


def _extended(labels: _Labels, l: int, role: Role, policy: Policy, option: int, value: float, costs: Costs) -> _Labels:
    trained, n = role != "frozen", len(labels.value)
    s, t = costs.saved[policy, role], costs.transient[policy, role]
    return _Labels(
        count=labels.count + trained,
        bytes=labels.bytes + (costs.block_bytes[l] if trained else 0),
        upload=labels.upload + (costs.block_upload[l] if trained else 0),
        R=s + np.maximum(t + labels.bytes, labels.R),
        flops=labels.flops + costs.flops[policy, role],
        value=labels.value + (value if trained else 0.0),
        parent=np.arange(n),
        option=np.full(n, option),
    )


def _fits(labels: _Labels, budget: Budget, costs: Costs) -> np.ndarray:
    fits = np.ones(len(labels.value), dtype=bool)
    if budget.blocks is not None:
        fits &= labels.count <= budget.blocks
    if budget.memory is not None:
        trained = labels.bytes + costs.head_bytes
        backward = np.maximum(costs.head_only_peak, costs.outside + labels.R)
        peak = np.maximum(backward, trained) + costs.moments * trained
        fits &= peak + costs.reserve <= budget.memory
    if budget.upload is not None:
        fits &= costs.fixed_upload + labels.upload <= budget.upload
    fits &= costs.flops_outside + labels.flops <= most_flops(budget)
    return fits


def _undominated(labels: _Labels) -> _Labels:
    """Drop each way that another of equal count, bytes, upload and FLOPs beats in both headroom and preference."""
    if not len(labels.value):
        return labels
    order = np.lexsort((-labels.value, labels.R, labels.flops, labels.upload, labels.bytes, labels.count))
    labels = labels.take(order)
    same = np.ones(len(order) - 1, dtype=bool)
    for column in (labels.count, labels.bytes, labels.upload, labels.flops):
        same &= column[1:] == column[:-1]
    group = np.concatenate([[0], np.cumsum(~same)])
    # The best value before each entry of its group: groups are lifted apart, so that one running maximum serves all.
    lift = group * (2 * float(labels.value.max()) + 1)
    lifted = labels.value + lift
    before = np.concatenate([[-np.inf], np.maximum.accumulate(lifted)[:-1]])
    return labels.take(np.flatnonzero(lifted > before + EQUAL))


def _walked(
    levels: dict[int, _Labels], lowest: int, policy: Policy, entry: int, kinds: Sequence[tuple[Role, Policy]], L: int
) -> Allocation:
    """Follow a way back up to the top block."""
    trained, policies = [lowest], [*(KEEP,) * lowest, policy]
    for l in range(lowest + 1, L):
        role, chosen = kinds[int(levels[l].option[entry])]
        policies.append(chosen)
        if role == "trained":
            trained.append(l)
        entry = int(levels[l].parent[entry])
    return Allocation(tuple(trained), tuple(policies))
