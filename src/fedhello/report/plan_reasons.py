"""Why a plan is not more: the planner's reasons, as a section of pages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedhello.formatting import budget_words, human_bytes
from fedhello.report.charts import axis, tip
from fedhello.report.figures import Cell, Column, DataTable, Figure, Listing, Part, Section, Spec, percent
from fedhello.types import Budget

Tier = Mapping[str, Any]


BUDGET_FIELDS = ("blocks", "rank", "memory", "upload", "seconds", "speed", "cache")


def tier_words(tier: Mapping[str, Any]) -> str:
    """Return the number and budget of a tier in a plan."""
    words = budget_words(budget_of(tier["budget"]))
    return f"tier {tier['tier']}: {words}" if words else f"tier {tier['tier']}"


def budget_of(limits: Mapping[str, Any]) -> Budget:
    """Return a budget from its limits in a file; those of later versions are left out."""
    return Budget(**{name: limits[name] for name in BUDGET_FIELDS if limits.get(name) is not None})


def planned(plan: Mapping[str, Any], title: str) -> Section:
    """Return the reasons in a plan as a section."""
    parts: list[Part] = [
        Listing(_title(tier), [_sentence(reason) for reason in _reasons(tier)]) for tier in plan["tiers"]
    ]
    front = [tier for tier in plan["tiers"] if len(tier.get("front") or ()) > 1]
    if front:
        parts.append(front_figure(front))
    return Section("why", title, list(_answer(plan)), parts)


def _answer(plan: Mapping[str, Any]) -> Iterator[str]:
    short = [tier for tier in plan["tiers"] if tier.get("blocks") and tier["blocks"][1] < plan["blocks"]]
    if not short:
        yield f"It was all there is: clients of every tier that takes part train all {plan['blocks']} blocks."
    else:
        yield (
            f"The model has {plan['blocks']} blocks, and what a client may train of them is limited in "
            f"{len(short)} of {len(plan['tiers'])} tiers. Before the first round, the planner gave these reasons; each "
            "tier stands for one of its clients."
        )


def _title(tier: Tier) -> str:
    name, blocks = tier_words(tier), tier.get("blocks")
    if not blocks:
        return f"{name} takes no part" if not tier["takes_part"] else name
    fewest, most = blocks
    return f"{name} – trains {most if fewest == most else f'{fewest} to {most}'} block{'s' * (most != 1)}"


def _reasons(tier: Tier) -> Iterator[str]:
    example = tier.get("example")
    if example:
        yield f"for example {example['picture']}"
        yield from example["reasons"]
    elif not tier["takes_part"]:
        yield "no client of this tier is asked by this method"
    needs, fraction = tier.get("needs"), tier.get("fraction") or {}
    if needs:
        shares = [f"{percent(used)} of the {name} budget" for name, used in fraction.items()]
        memory, upload = human_bytes(needs["memory_bytes"]), human_bytes(needs["upload_bytes"])
        least = f"a step needs {memory} of memory, and an update takes {upload}"
        yield f"{least}: {', '.join(shares)}" if shares else least


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ")")) else ".")


def front_figure(tiers: Sequence[Tier]) -> Figure:
    """Return what other budgets would afford in some tiers of a plan."""
    rows: list[list[Cell]] = [
        [tier_words(tier), "another budget", *_point(point)] for tier in tiers for point in tier["front"]
    ]
    rows += [
        [tier_words(tier), "this plan", tier["blocks"][1], *_point(tier["needs"])[1:]]
        for tier in tiers
        if tier.get("needs")
    ]
    columns = (
        Column("tier", "tier"),
        Column("what", "what"),
        Column("blocks", "blocks", "integer"),
        Column("memory", "memory", "bytes"),
        Column("computation", "computation", "percent"),
        Column("upload", "upload", "bytes"),
    )
    text = (
        "The least memory that a step takes with so many blocks trained, whatever the time, for the clients of each "
        "tier. Ringed is what was planned, at most; dashed are the budgets. The table has all ways, with their "
        "computation as a share of training all blocks without recomputation."
    )
    budgets = [
        {"tier": tier_words(tier), "limit": tier["budget"]["memory"]} for tier in tiers if "memory" in tier["budget"]
    ]
    x = axis("blocks", "blocks trained", "integer", axis={"grid": False})
    y = axis("memory", "memory above the model", "bytes")
    colour = {"field": "tier", "type": "nominal", "title": None}
    tips = [tip("tier", "tier"), tip("blocks", "blocks", "integer"), tip("memory", "bytes", "bytes")]
    places = {"x": x, "y": y, "color": colour, "tooltip": tips}
    least = {"aggregate": [{"op": "min", "field": "memory", "as": "memory"}], "groupby": ["tier", "blocks"]}
    layers: list[Spec] = [
        {
            "transform": [{"filter": "datum.what === 'another budget'"}, least],
            "mark": {"type": "line", "point": True},
            "encoding": places,
        },
        {
            "transform": [{"filter": "datum.what === 'this plan'"}],
            "mark": {"type": "point", "filled": False, "size": 220, "strokeWidth": 2},
            "encoding": places,
        },
        {
            "data": {"values": budgets},
            "mark": {"type": "rule", "strokeDash": [4, 4], "strokeWidth": 1.4},
            "encoding": {"y": {**y, "field": "limit"}, "color": colour},
        },
    ]
    return Figure(
        "front", "What so many blocks take", text, {"height": 260, "layer": layers},
        DataTable("Ways to train", columns, rows),
    )  # fmt: skip


def _point(point: Mapping[str, Any]) -> list[Cell]:
    return [point.get("blocks"), point["memory_bytes"], point["relative_flops"], point["upload_bytes"]]
