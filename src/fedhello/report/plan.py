"""The plan of a run: what each tier would train, the predicted costs, and what limits them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhello.formatting import budget_words, human_bytes
from fedhello.report.labels import ClientPlan, show_labels
from fedhello.report.noise import NoisePlan, noise_table, write_noise
from fedhello.runs.files import write_whole
from fedhello.runs.heads_said import StatisticsCosts
from fedhello.types import Allocation, Budget

FORMAT = 1
"""Format of ``fedhello plan --json``; it rises with changes that are not backward compatible."""

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


@dataclass(frozen=True)
class Plan:
    """The plan of a run; ``str`` is a table for people.

    Attributes:
        method: The name of the method.
        model: The foundation model.
        num_blocks: L, the number of blocks of the model.
        rounds: ``train.rounds``.
        clients_per_round: Number of clients in a round.
        download_bytes: Bytes that each of them receives per round.
        tiers: The plan of each tier.
        labels: Names of the classes.
        clients: The clients, in ascending id; none under differential privacy.
        server: The numbers of the server's samples.
        head: The upload of the sums for a solved head; None if no client sends sums.
        notes: Notes for the user.
        noise: The noise under differential privacy; empty if nothing trains under it.

    Example:
        >>> plan = fh.plan(fh.prepare("my.yaml"))
        >>> [(tier.clients, tier.budget.blocks, tier.num_blocks) for tier in plan.tiers]
        [(2, 1, (1, 1)), (2, 3, (3, 3))]
    """

    method: str
    model: str
    num_blocks: int
    rounds: int
    clients_per_round: int
    download_bytes: int
    tiers: tuple[TierPlan, ...]
    labels: tuple[str, ...]
    clients: tuple[ClientPlan, ...]
    server: ServerPlan
    head: StatisticsCosts | None
    notes: tuple[str, ...]
    noise: tuple[NoisePlan, ...] = ()

    def __str__(self) -> str:
        """Return the table."""
        console = Console(width=160, file=StringIO(), no_color=True, force_jupyter=False, force_terminal=False)
        show(self, console)
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as ``fedhello plan --json`` prints it; ``noise`` only under differential privacy."""
        return {
            "format": FORMAT,
            "method": self.method,
            "model": self.model,
            "blocks": self.num_blocks,
            "rounds": self.rounds,
            "clients_per_round": self.clients_per_round,
            "download_bytes": self.download_bytes,
            "tiers": [_write_tier(tier) for tier in self.tiers],
            "labels": list(self.labels),
            "clients": [
                {"client": one.client, "tier": one.tier, "samples": one.samples, "labels": list(one.labels)}
                for one in self.clients
            ],
            "server": {
                "validation": self.server.validation,
                "test": self.server.test,
                "proxy": self.server.proxy,
            },
            "head": None if self.head is None else {"chosen": self.head.chosen, "bytes": dict(self.head.bytes)},
            "notes": list(self.notes),
            **({"noise": write_noise(self.noise)} if self.noise else {}),
        }

    def write_picture(self, file: str | Path) -> None:
        """Write the Pareto front of budgets as SVG: memory against computation, with the number of trained blocks.

        Args:
            file: The path of the SVG file.

        Raises:
            ConfigError: If every budget counts blocks, so that there is no front.
            MissingExtraError: If the drawing library is not installed.
            RunFolderError: If the file cannot be written.
        """
        from fedhello.report.plan_page import plan_picture  # which needs this module

        write_whole(Path(file), plan_picture(self) + "\n")

    def write_page(self, file: str | Path) -> None:
        """Write the plan as a self-contained page: the tiers, what limits them, and the labels of the clients.

        Args:
            file: The path of the HTML file.

        Raises:
            MissingExtraError: If the drawing library is not installed.
            RunFolderError: If the file cannot be written.
        """
        from fedhello.report.html import page_html
        from fedhello.report.plan_page import plan_page  # which needs this module

        write_whole(Path(file), page_html(plan_page(self)))


def _write_tier(tier: TierPlan) -> dict[str, Any]:
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


def show(plan: Plan, console: Console) -> None:
    """Print a plan for people."""
    console.print(
        f"{plan.method} on {plan.model}, {plan.num_blocks} blocks: {plan.rounds} rounds of "
        f"{plan.clients_per_round} clients; each downloads {human_bytes(plan.download_bytes)} per round",
        highlight=False,
    )
    console.print(_tier_table(plan.tiers))
    for tier in plan.tiers:
        _show_tier(tier, console)
    show_labels(plan.labels, plan.clients, console)
    held = f"{plan.server.validation} validation, {plan.server.test} test and {plan.server.proxy} proxy samples"
    console.print(f"the server holds {held}", highlight=False)
    if plan.head is not None:
        console.print(str(plan.head), highlight=False, soft_wrap=True)
    if plan.noise:
        console.print(noise_table(plan.noise))
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


COLUMNS = ("tier", "clients", "budget", "trains", "memory at most", "time", "upload", "how often each block (round 0)")


def _tier_table(tiers: Sequence[TierPlan]) -> Table:
    table = Table(*COLUMNS, box=None)
    for tier in tiers:
        cells = (str(tier.tier), str(tier.clients), budget_words(tier.budget))
        table.add_row(*cells, *(("left out",) if tier.num_blocks is None else _taken(tier, tier.num_blocks)))
    table.caption = "time: computation of a round / that of training all blocks without recomputation"
    table.caption_justify = "left"
    return table


def _taken(tier: TierPlan, num_blocks: tuple[int, int]) -> tuple[str, ...]:
    """Write what a tier's clients train, what that takes, and how often each block trains."""
    fewest, most = num_blocks
    trains = str(most) if fewest == most else f"{fewest}–{most}"
    often = "by Fisher score"
    if tier.frequency is not None:
        often = " ".join(f"{share:.2f}".lstrip("0") for share in tier.frequency)
    if tier.needs is None:
        return (trains, "–", "–", "–", often)
    needs, used = tier.needs, tier.fraction
    seconds = "" if needs.seconds is None else f", {needs.seconds:.2g} s{_share(used.get('seconds'))}"
    return (
        trains,
        human_bytes(needs.memory_bytes) + _share(used.get("memory")),
        f"{needs.relative_flops:.0%}{seconds}",
        human_bytes(needs.upload_bytes) + _share(used.get("upload")),
        often,
    )


def _share(fraction: float | None) -> str:
    return "" if fraction is None else f" ({fraction:.0%})"


def _show_tier(tier: TierPlan, console: Console) -> None:
    if tier.example is None:
        return
    console.print(f"tier {tier.tier}, for example {tier.example.picture}", highlight=False, markup=False)
    for sentence in tier.example.reasons:
        console.print(f"  – {sentence}", highlight=False, markup=False)
    if not tier.front:
        return
    table = Table("", "blocks trained", "least memory", "at time", "least time", "at memory", box=None)
    for n in sorted({point.num_blocks for point in tier.front}):
        ways = [point for point in tier.front if point.num_blocks == n]
        least = min(ways, key=lambda way: way.memory_bytes)
        fastest = min(ways, key=lambda way: way.flops)
        cells = [human_bytes(least.memory_bytes), f"{least.relative_flops:.0%}"]
        if fastest is not least:
            cells += [f"{fastest.relative_flops:.0%}", human_bytes(fastest.memory_bytes)]
        table.add_row("", str(n), *cells)
    console.print("  what other budgets would afford (all points: --json, --picture):", highlight=False)
    console.print(table)
