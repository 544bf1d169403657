"""The page of a plan: what each tier would train, what limits it, and who has which labels."""

from typing import Any

from fedhello.errors import ConfigError
from fedhello.formatting import budget_words, human_bytes
from fedhello.report.charts import discrete, heat_map, names_axis, tip
from fedhello.report.figures import Card, Cell, Column, DataTable, Figure, Listing, Page, Part, Section
from fedhello.report.html import stacked, svg_of
from fedhello.report.labels import label_map
from fedhello.report.plan import Plan, TierPlan
from fedhello.report.run_plan import front_figure, planned


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
