"""The planner: the blocks of largest preference that fit a client's budget, and an activation policy per block.

A method gives every block l a preference v_l ≥ 0. The planner returns the blocks S and a policy per block that

    maximise    Σ_{l ∈ S} v_l
    subject to  peak(S, policies) + reserve ≤ memory,    upload(S) ≤ its bytes,    FLOPs(S, policies) / speed ≤ seconds,

and among equals those of least time, then of least memory. With m the lowest block of S, a step holds (bytes)

    saved = outside + Σ_{l ≥ m} s_l
    peak  = max( backward, gradients' bytes + update ) + moments · trained bytes + added
    backward = max( head only,  outside + a_m + max_l ( Σ_{m ≤ j ≤ l} s_j + t_l + Σ_{j > l} g_j ) )

where s_l is what block l holds for backward, t_l what work on it needs for a moment, and g_j the gradients of block
j; s and t follow from the block's policy and role, 0 below m, where blocks leave a_m alive in forward. What a
block above the lowest leaves alive counts with its s_l in the peak, and so does, once, what blocks that recompute share
beside their inputs, where the lowest is none of them. What is added is the most that the policies in use took beyond
their prediction. Backward goes from top to bottom, hence the sums.

The search is exact. It walks from the top block down and keeps, for each number of trained blocks, trained bytes and
FLOPs so far, the headroom that the blocks above need

    R_l = s_l + max( t_l + Σ_{j > l} g_j,  R_{l+1} )

against the preference gathered, dropping whatever is worse in both. Blocks of one model cost the same, so few such
combinations differ: some thousands for 40 blocks.

Rules say which policies are allowed:

    keep               autograd saves what it needs
    recompute-frozen   trained blocks keep, frozen ones that backward passes recompute
    recompute          all recompute
    compress           all compress
    auto               each keeps or recomputes, whichever fits and takes least time; gradients are exact
    auto-compress      each keeps, recomputes or compresses; compressing rounds the saved activations
    forward            nothing is held, since gradients are estimated without backward
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from fedhello.allocation.needs import needs
from fedhello.allocation.search import _search
from fedhello.costs import KEEP, ActivationPolicy, ActivationRule, Costs, Role
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget, Federation

OPTIONS: dict[ActivationRule, dict[Role, tuple[ActivationPolicy, ...]]] = {
    "keep": {"trained": ("keep",), "frozen": ("keep",)},
    "recompute-frozen": {"trained": ("keep",), "frozen": ("recompute",)},
    "recompute": {"trained": ("recompute",), "frozen": ("recompute",)},
    "compress": {"trained": ("compress",), "frozen": ("compress",)},
    "auto": {"trained": ("keep", "recompute"), "frozen": ("keep", "recompute")},
    "auto-compress": {
        "trained": ("keep", "recompute", "compress"),
        "frozen": ("keep", "recompute", "compress"),
    },
    "forward": {"trained": ("forward",), "frozen": ("forward",)},
}


def fit(context: AllocationContext, preference: Sequence[float] | Float[np.ndarray, " L"]) -> Allocation:
    """Return the client's allocation in this round for a method's preference.

    A budget that counts blocks gets the c most preferred, as in the papers. The memory budget of a client that exceeded
    it in an earlier round is divided by ``context.excess``. Closed blocks are preferred by nobody.

    Args:
        context: Client, federation and round.
        preference: v ≥ 0, length L; a block with v_l = 0 is never trained.
    """
    budget, costs = means(context)
    v = tuple(float(x) if l >= context.closed else 0.0 for l, x in enumerate(preference))
    return replace(plan(budget, v, costs, context.federation.rule), preference=v)


def means(context: AllocationContext) -> tuple[Budget, Costs | None]:
    """Return the client's budget, corrected by its excess, and its tier's costs; None where nothing is predicted."""
    client, federation = context.client, context.federation
    budget = client.budget
    if budget.memory is not None:
        budget = replace(budget, memory=int(budget.memory / context.excess))
    return budget, federation.costs[client.tier] if federation.costs else None


def plan_tiers(federation: Federation, preference: Sequence[float] | Float[np.ndarray, " L"]) -> list[tuple[int, ...]]:
    """Return the blocks that each tier affords under one preference; none for a tier without clients."""
    costs = federation.costs or (None,) * len(federation.tiers)
    return [
        plan(budget, tuple(preference), costs[g], federation.rule).blocks if federation.members[g] else ()
        for g, budget in enumerate(federation.tiers)
    ]


@lru_cache(maxsize=1024)  # the clients of a tier often ask for the same
def plan(
    budget: Budget, preference: tuple[float, ...], costs: Costs | None, rule: ActivationRule = "keep"
) -> Allocation:
    """Return the blocks and policies that a budget affords.

    Args:
        budget: The limits.
        preference: v, length L.
        costs: Costs of the blocks; None only for budgets that count blocks.
        rule: Which policies are allowed.

    Returns:
        The best allocation that fits. Where none fits, the one of least memory, so that its needs can be reported.
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


def least_memory(blocks: Sequence[int], costs: Costs, rule: ActivationRule) -> Allocation:
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


def fixed_policies(rule: ActivationRule, trained: Sequence[int], num_blocks: int) -> tuple[ActivationPolicy, ...]:
    """Return each block's first policy that a rule allows, whatever the budget.

    Example:
        >>> fixed_policies("recompute-frozen", trained=(1, 3), num_blocks=5)
        ('keep', 'keep', 'recompute', 'keep', 'recompute')
    """
    lowest = min(trained, default=num_blocks)
    options = OPTIONS[rule]
    return tuple(
        "keep" if l < lowest else options["trained" if l in trained else "frozen"][0] for l in range(num_blocks)
    )


def cheapest(costs: Costs, rule: ActivationRule) -> Allocation:
    """Return the allocation of least memory: the head alone if clients share it, else the last block and the head."""
    L = len(costs.block_bytes)
    if costs.head_shared:
        return Allocation((), (KEEP,) * L)
    choices = [Allocation((L - 1,), (*(KEEP,) * (L - 1), policy)) for policy in OPTIONS[rule]["trained"]]
    return min(choices, key=lambda a: needs(costs, a).peak_bytes)
