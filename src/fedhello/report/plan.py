"""The plan of a run: what each tier would train, the predicted costs, and what limits them."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhello.errors import ConfigError
from fedhello.formatting import budget_words, human_bytes
from fedhello.report.charts import discrete, heat_map, names_axis, tip
from fedhello.report.figures import Card, Cell, Column, DataTable, Figure, Listing, Page, Part, Section
from fedhello.report.html import page_html, stacked, svg_of
from fedhello.report.labels import ClientPlan, label_map, show_labels
from fedhello.report.noise import NoisePlan, noise_table, write_noise
from fedhello.report.plan_reasons import front_figure, planned
from fedhello.report.plan_tiers import ServerPlan, TierPlan, write_tier
from fedhello.runs.files import write_whole
from fedhello.runs.heads_said import StatisticsCosts

FORMAT = 1
"""Format of ``fedhello plan --json``; it rises with changes that are not backward compatible."""


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
            "tiers": [write_tier(tier) for tier in self.tiers],
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
        write_whole(Path(file), plan_picture(self) + "\n")

    def write_page(self, file: str | Path) -> None:
        """Write the plan as a self-contained page: the tiers, what limits them, and the labels of the clients.

        Args:
            file: The path of the HTML file.

        Raises:
            MissingExtraError: If the drawing library is not installed.
            RunFolderError: If the file cannot be written.
        """
        write_whole(Path(file), page_html(plan_page(self)))


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


def plan_page(plan: Plan) -> Page:
    """Return the page of a plan."""
    labels = [_labels(plan)] if plan.clients else []
    sections, rest = [_tiers(plan), planned(plan.to_dict(), "Why is it not more?"), *labels], _rest(plan)
    return Page(
        f"fedhello: the plan of {plan.method}",
        [f"On {plan.model}, {plan.num_blocks:,} blocks; nothing has been trained yet."],
        _cards(plan),
        [*sections, *([rest] if rest.parts else [])],
    )


def plan_picture(plan: Plan) -> str:
    """Return what budgets would afford as SVG.

    Raises:
        ConfigError: If every budget counts blocks, so that there is nothing to draw.
        MissingExtraError: If the drawing library is not installed.
    """
    tiers = [tier for tier in plan.to_dict()["tiers"] if tier["front"]]
    if not tiers:
        raise ConfigError("expected a tier with memory, upload or seconds to draw; all budgets count blocks")
    return svg_of(stacked([front_figure(tiers)]))


def _cards(plan: Plan) -> list[Card]:
    clients = sum(tier.clients for tier in plan.tiers)
    held = plan.server
    return [
        Card("rounds", f"{plan.rounds:,}", f"of {plan.clients_per_round:,} clients"),
        Card("clients", f"{clients:,}", f"in {len(plan.tiers):,} tiers"),
        Card("download", human_bytes(plan.download_bytes), "per client and round"),
        Card("test samples", f"{held.test:,}", f"{held.validation:,} for validation, {held.proxy:,} for Fisher scores"),
    ]


def _tiers(plan: Plan) -> Section:
    out = [tier for tier in plan.tiers if not tier.takes_part]
    said = [
        "The most that one of a tier's clients needs; computation is that of a round, as a share of training all "
        "blocks without recomputation."
    ]
    if out:
        said.append(f"Left out by {plan.method}: {', '.join(f'tier {tier.tier}' for tier in out)}.")
    parts: list[Part] = [DataTable("The tiers", _TIER_COLUMNS, [_tier_row(tier) for tier in plan.tiers])]
    known = [tier for tier in plan.tiers if tier.frequency is not None]
    if known and all(share == 1 for tier in known for share in tier.frequency or ()):
        said.append("In round 0 all clients that take part train every block.")
    elif known:
        parts.append(_frequencies(plan, known))
    return Section("tiers", "What does each tier train?", said, parts)


_TIER_COLUMNS = (
    Column("tier", "tier"),
    Column("budget", "budget"),
    Column("clients", "clients", "integer"),
    Column("fewest", "fewest blocks", "integer"),
    Column("most", "most blocks", "integer"),
    Column("memory", "memory", "bytes"),
    Column("memory_share", "of the budget", "percent"),
    Column("computation", "computation", "percent"),
    Column("seconds", "time of a round", "seconds"),
    Column("upload", "upload", "bytes"),
    Column("upload_share", "of the budget", "percent"),
)


def _tier_row(tier: TierPlan) -> list[Cell]:
    fewest, most = tier.num_blocks or (None, None)
    known: list[Cell] = [f"tier {tier.tier}", budget_words(tier.budget), tier.clients, fewest, most]
    needs, used = tier.needs, tier.fraction
    if needs is None:
        return [*known, *[None] * (len(_TIER_COLUMNS) - len(known))]
    return [
        *known, needs.memory_bytes, used.get("memory"), needs.relative_flops, needs.seconds, needs.upload_bytes,
        used.get("upload"),
    ]  # fmt: skip


def _frequencies(plan: Plan, tiers: list[TierPlan]) -> Figure:
    blocks = [Column(f"b{l}", str(l), "percent") for l in range(plan.num_blocks)]
    rows: list[list[Cell]] = [[f"tier {tier.tier}", *(tier.frequency or ())] for tier in tiers]
    value: dict[str, Any] = {
        "field": "share",
        "scale": {"domain": [0, 1]},
        "legend": {"title": "of the clients", "format": ".0%", "gradientLength": 140},
    }
    return Figure(
        "frequencies",
        "How often each block trains in round 0",
        "The share of a tier's clients that train each block, before any Fisher score; block 0 is next to the input.",
        heat_map(
            discrete("block", "block"),
            names_axis("tier"),
            value,
            height=28 * len(tiers),
            tips=[tip("tier", "tier"), tip("block", "block"), tip("share", "share", "percent")],
        ),
        DataTable("How often each block trains", [Column("tier", "tier"), *blocks], rows),
        melt=("block", "share", 1),
    )


def _labels(plan: Plan) -> Section:
    sizes = [one.samples for one in plan.clients]
    said = f"{len(sizes):,} clients have {min(sizes):,} to {max(sizes):,} training samples, {sum(sizes):,} in all."
    return Section("labels", "Who has which labels?", [said], [label_map(plan.labels, plan.clients)])


def _rest(plan: Plan) -> Section:
    parts: list[Part] = []
    if plan.noise:
        columns = (
            Column("what", "what trains under differential privacy"),
            Column("numbers", "numbers", "integer"),
            Column("noise", "noise / largest mean step", "number"),
        )
        rows: list[list[Cell]] = [[one.what, one.numbers, one.noise_over_clip] for one in plan.noise]
        parts.append(DataTable("Noise under differential privacy", columns, rows))
    notes = [*([] if plan.head is None else [str(plan.head)]), *plan.notes]
    if notes:
        parts.append(Listing("", [f"{note[0].upper()}{note[1:]}." for note in notes]))
    return Section("notes", "What else is to be known?", [], parts)
