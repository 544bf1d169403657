"""What a plan says of each tier: what it trains, what that takes, and why not more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedhello.types import Allocation, Budget

MARKS = {"keep": "●", "recompute": "◐", "compress": "◒", "forward": "◑", None: "·"}
FROZEN_MARKS = {"keep": "○", "recompute": "◌", "compress": "◍", "forward": "○"}
LEGEND = {
    "●": "trained", "◐": "trained, recomputed", "◒": "trained, compressed", "·": "not reached",
    "◑": "trained, without backward", "○": "frozen, passed", "◌": "frozen, recomputed", "◍": "frozen, compressed",
}  # fmt: skip


@dataclass(frozen=True)
class PredictedNeeds:
    """The largest predicted costs of a round among a tier's clients.

    Attributes:
        saved_bytes: Bytes saved for backward.
        peak_bytes: Peak bytes of live tensors in a step, above the loaded model.
        memory_bytes: ``peak_bytes`` plus the reserve; compared with the memory budget.
        flops: FLOPs of a round.
        upload_bytes: Bytes of the update on the wire.
        seconds: Seconds of training; None if the budget has no speed.
        relative_flops: ``flops`` / those of a round that trains all blocks without recomputation.
    """

    saved_bytes: int
    peak_bytes: int
    memory_bytes: int
    flops: int
    upload_bytes: int
    seconds: float | None
    relative_flops: float


@dataclass(frozen=True)
class ExamplePlan:
    """An example of what a client of a tier would train in round 0, and what limits it.

    Attributes:
        allocation: Blocks, their activation policies and ranks.
        reasons: Sentences on what limits the allocation.
    """

    allocation: Allocation
    reasons: tuple[str, ...]

    @property
    def picture(self) -> str:
        """One mark per block, from the input on: trained or frozen, and its activation policy; with a legend."""
        allocation = self.allocation
        lowest = min(allocation.blocks, default=len(allocation.policies))
        marks = [
            MARKS[policy] if l in allocation.blocks else FROZEN_MARKS[policy] if l > lowest else MARKS[None]
            for l, policy in enumerate(allocation.policies)
        ]
        return "".join(marks) + "  (" + ", ".join(f"{mark} {LEGEND[mark]}" for mark in dict.fromkeys(marks)) + ")"


@dataclass(frozen=True)
class FrontPoint:
    """A point of the Pareto front of memory, computation and number of trained blocks.

    Attributes:
        num_blocks: Number of trained blocks.
        policies: The activation policy of each block, length L.
        memory_bytes: Bytes above the loaded model.
        flops: FLOPs of a round.
        relative_flops: ``flops`` / those of a round that trains all blocks without recomputation.
        upload_bytes: Bytes of the update on the wire.
    """

    num_blocks: int
    policies: tuple[str, ...]
    memory_bytes: int
    flops: int
    relative_flops: float
    upload_bytes: int


@dataclass(frozen=True)
class TierPlan:
    """The plan of one tier.

    Attributes:
        tier: Its number.
        clients: Number of its clients.
        budget: The budget of each client.
        takes_part: Whether its clients take part.
        num_blocks: The fewest and the most blocks that one of them trains; None if none takes part.
        frequency: How often each block trains in round 0, 0 … 1, length L; None if Fisher scores decide.
        needs: The largest costs of its clients; None without a prediction.
        fraction: Limit (``memory``, ``upload``, ``seconds``) → ``needs`` as a share of it, for given limits.
        example: An example of what a client would train; None without a prediction.
        front: The Pareto front of other budgets; empty if the budget counts blocks or a rank.
    """

    tier: int
    clients: int
    budget: Budget
    takes_part: bool
    num_blocks: tuple[int, int] | None = None
    frequency: tuple[float, ...] | None = None
    needs: PredictedNeeds | None = None
    fraction: Mapping[str, float] = field(default_factory=dict)
    example: ExamplePlan | None = None
    front: tuple[FrontPoint, ...] = ()


@dataclass(frozen=True)
class ServerPlan:
    """The numbers of the server's samples.

    Attributes:
        validation: Number of validation samples.
        test: Number of test samples.
        proxy: Number of samples for Fisher scores.
    """

    validation: int
    test: int
    proxy: int


def write_tier(tier: TierPlan) -> dict[str, Any]:
    """Return a tier as ``fedhello plan --json`` prints it."""
    return {
        "tier": tier.tier,
        "clients": tier.clients,
        "budget": tier.budget.limits,
        "takes_part": tier.takes_part,
        "blocks": None if tier.num_blocks is None else list(tier.num_blocks),
        "frequency": None if tier.frequency is None else list(tier.frequency),
        "needs": None if tier.needs is None else _write_needs(tier.needs),
        "fraction": dict(tier.fraction),
        "example": None if tier.example is None else _write_example(tier.example),
        "front": [_write_point(point) for point in tier.front],
    }


def _write_needs(needs: PredictedNeeds) -> dict[str, Any]:
    return {
        "saved_bytes": needs.saved_bytes,
        "peak_bytes": needs.peak_bytes,
        "memory_bytes": needs.memory_bytes,
        "flops": needs.flops,
        "upload_bytes": needs.upload_bytes,
        "seconds": needs.seconds,
        "relative_flops": needs.relative_flops,
    }


def _write_example(example: ExamplePlan) -> dict[str, Any]:
    return {
        "blocks": list(example.allocation.blocks),
        "policies": list(example.allocation.policies),
        "picture": example.picture,
        "ranks": list(example.allocation.ranks),
        "reasons": list(example.reasons),
    }


def _write_point(point: FrontPoint) -> dict[str, Any]:
    return {
        "blocks": point.num_blocks,
        "policies": list(point.policies),
        "memory_bytes": point.memory_bytes,
        "flops": point.flops,
        "relative_flops": point.relative_flops,
        "upload_bytes": point.upload_bytes,
    }
