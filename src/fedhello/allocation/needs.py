"""What an allocation needs of its client: bytes of memory, bytes to upload, FLOPs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhello.costs import FORWARD, KEEP, ActivationPolicy, Costs, Role
from fedhello.state import ClientReport
from fedhello.types import Allocation, Budget, Federation, Rejection


@dataclass(frozen=True)
class Needs:
    """Predicted cost of an allocation: a step's bytes above the loaded model, FLOPs and upload bytes of a round.

    Attributes:
        saved_bytes: Bytes saved for backward.
        peak_bytes: Peak bytes of live tensors in a step.
        memory_bytes: ``peak_bytes`` plus the reserve; compared with the memory budget.
        flops: FLOPs of a round.
        upload_bytes: Bytes of the update on the wire.
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


def needs(costs: Costs, allocation: Allocation, first_step: bool = False) -> Needs:
    """Return the predicted cost of an allocation, by the formulas of ``allocation.planner``.

    The peak is that of backward or of the optimiser's step, which holds all gradients and moments, whichever is larger.
    In the ``first_step`` of a round there are no moments during backward.

    Three figures are upper bounds: where one factor of a pair trains, both are counted; blocks that a sub-model leaves
    out count in its forward FLOPs; what blocks leave alive in forward counts in backward as well.
    """
    trained, policies = set(allocation.blocks), allocation.policies
    L = len(costs.block_bytes)
    lowest = min(trained, default=L)
    at = {l: costs.at_rank(len(allocation.held(l, costs.rank))) for l in trained}
    size = {l: at[l].block_bytes[l] for l in trained}
    default: ActivationPolicy = FORWARD if costs.forward else KEEP
    whole = not policies or costs.forward
    run = {l: default if whole else policies[l] for l in range(lowest, L) if l not in allocation.absent}
    used = set(run.values())
    held = costs.outside + costs.held_once(run[lowest], used) if trained else costs.outside_head_only
    above, alive = sum(size.values()), costs.alive_below(lowest)
    peak, flops = costs.head_only_peak, costs.flops_outside
    for l, policy in run.items():
        role: Role = "lowest" if l == lowest else "trained" if l in trained else "frozen"
        kind = policy, role
        above -= size.get(l, 0)
        held += costs.saved[kind]
        alive += costs.left.get(kind, 0)
        more = costs.gradients(above, size.get(l, 0)) + costs.throughout(sum(size.values()))
        peak = max(peak, held + costs.transient[kind] + more + alive)
        flops += costs.flops[kind]
    if trained:
        peak = max(peak, held + costs.transient_loss + costs.throughout(sum(size.values())) + alive)
    trained_bytes = sum(size.values()) + costs.head_bytes
    upload = costs.fixed_upload + sum(at[l].block_upload[l] for l in trained)
    state = costs.moments * trained_bytes
    update = trained_bytes * costs.copies + state + (costs.update if trained else costs.update_head_only)
    peak = costs.added(used) + max(peak if first_step else peak + state, update)
    return Needs(held, peak, peak + costs.reserve, flops, upload)


OUT_OF_MEMORY = 1.25
"""Factor on the predicted memory of a client that ran out of memory, so that nothing was measured."""


def measured_excess(
    federation: Federation,
    reports: Sequence[ClientReport],
    before: Mapping[int, float],
    rejections: Sequence[Rejection] = (),
) -> dict[int, float]:
    """Return measured over predicted memory of each client that exceeded its memory budget: the largest ratio so far.

    Args:
        federation: Its tiers have the budgets.
        reports: With the metrics ``peak_bytes`` (of tensors) and ``process_bytes`` (of the process), as far as they
            were measured, and ``predicted_memory_bytes``.
        before: The ratios of earlier rounds, by client.
        rejections: Each ``over budget`` multiplies the client's ratio by ``OUT_OF_MEMORY``.
    """
    found = {r.client: before.get(r.client, 1.0) * OUT_OF_MEMORY for r in rejections if r.reason == "over budget"}
    for report in reports:
        memory, metrics = federation.tiers[report.tier].memory, report.metrics
        measured = max(metrics.get("peak_bytes", 0.0), metrics.get("process_bytes", 0.0))
        if memory is not None and measured > memory:
            times = measured / metrics["predicted_memory_bytes"]
            found[report.client] = max(1.0, times, before.get(report.client, 1.0))
    return found
