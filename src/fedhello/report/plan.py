"""What a run would do, before it does anything: what each tier trains, what that takes, and why not more."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhello.allocation.needs import Needs, needs
from fedhello.allocation.reasons import Point, front, reasons
from fedhello.costs import Costs
from fedhello.engine.wire import encode_tensors
from fedhello.errors import ConfigError
from fedhello.formatting import budget_words, human_bytes
from fedhello.model.head import is_shared
from fedhello.report.drawing import svg_of
from fedhello.runs.files import write_whole
from fedhello.runs.heads_said import costs_line, statistics_costs
from fedhello.session import Session
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget

ROUNDS_SHOWN = 300
"""Draws behind the shown frequencies of a randomised allocation."""

MARKS = {"keep": "●", "recompute": "◐", "compress": "◒", None: "·"}
FROZEN_MARKS = {"keep": "○", "recompute": "◌", "compress": "◍"}


def describe(session: Session) -> dict[str, Any]:
    """Return the plan of a prepared session, JSON-ready.

    Per tier, over its clients and ``ROUNDS_SHOWN`` draws of the first round's allocation (before any Fisher score):
    ``frequency`` of each block, ``blocks`` trained from fewest to most, and the most any draw needs. ``example`` is
    the first draw, with the reasons why it is not more. Where the method needs scores first, every block counts alike.
    """
    federation = session.federation
    adapter = session.model.snapshot(share_head=is_shared(session.head.policy))
    return {
        "method": session.row.name,
        "model": session.model.source.base_name,
        "blocks": federation.blocks,
        "rounds": session.settings.rounds,
        "clients_per_round": federation.clients_per_round,
        "download_bytes": len(encode_tensors(adapter.tensors)),
        "tiers": [_tier(session, g) for g in range(len(federation.tiers))],
        "labels": list(session.labels),
        "clients": [
            {"client": k, "tier": session.tier_of[k], "samples": int(row.sum()), "labels": row.tolist()}
            for k, row in enumerate(session.histogram)
        ],
        "server": {
            "validation": len(session.server.validation),
            "test": len(session.server.test),
            "proxy": len(session.server.proxy),
        },
        "head": statistics_costs(session),
        "notes": list(session.notes),
    }


@dataclass(frozen=True)
class Plan:
    """What a run would do; ``str`` is the table for people.

    Attributes:
        described: The same as JSON-ready values; see ``describe``.

    Example:
        >>> fh.plan(fh.prepare("my.yaml")).described["tiers"][0]["clients"]
        2
    """

    described: dict[str, Any]

    def __str__(self) -> str:
        """Return the table."""
        console = Console(width=160, file=StringIO(), no_color=True, force_jupyter=False, force_terminal=False)
        show(self.described, console)
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    def write_picture(self, file: str | Path) -> None:
        """Draw what budgets afford, memory against computation with the blocks trained beside each point.

        Args:
            file: Where to, as SVG.

        Raises:
            ConfigError: If every budget counts blocks, so that there is nothing to draw.
            MissingExtraError: If matplotlib is not installed.
            RunFolderError: If the file cannot be written.
        """
        write_whole(Path(file), picture(self.described) + "\n")


def show(plan: dict[str, Any], console: Console) -> None:
    """Print a plan for people."""
    console.print(
        f"{plan['method']} on {plan['model']}, {plan['blocks']} blocks: {plan['rounds']} rounds of "
        f"{plan['clients_per_round']} clients; each downloads {human_bytes(plan['download_bytes'])} per round",
        highlight=False,
    )
    console.print(_tier_table(plan["tiers"]))
    for tier in plan["tiers"]:
        _show_tier(tier, console)
    clients = Table("client", "tier", "samples", *plan["labels"], box=None)
    for client in plan["clients"]:
        row = (client["client"], client["tier"], client["samples"], *client["labels"])
        clients.add_row(*("·" if i > 2 and cell == 0 else str(cell) for i, cell in enumerate(row)))
    console.print(clients)
    server = plan["server"]
    console.print(
        "the server holds {validation} validation, {test} test and {proxy} proxy samples".format(**server),
        highlight=False,
    )
    if plan["head"] is not None:
        console.print(costs_line(plan["head"]), highlight=False, soft_wrap=True)
    for note in plan["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)


def _tier_table(tiers: Sequence[dict[str, Any]]) -> Table:
    columns = (
        "tier",
        "clients",
        "budget",
        "trains",
        "memory at most",
        "time",
        "upload",
        "how often each block (round 0)",
    )
    table = Table(*columns, box=None)
    for tier in tiers:
        if not tier["takes_part"]:
            table.add_row(str(tier["tier"]), str(tier["clients"]), budget_words(Budget(**tier["budget"])), "left out")
            continue
        fewest, most = tier["blocks"]
        used, most_needed = tier["fraction"], tier["needs"] or {}
        seconds = None if not most_needed else most_needed["seconds"]
        cells = (
            tier["tier"],
            tier["clients"],
            budget_words(Budget(**tier["budget"])),
            str(most) if fewest == most else f"{fewest}–{most}",
            human_bytes(most_needed.get("memory_bytes")) + _share(used.get("memory")),
            ("–" if not most_needed else f"{most_needed['relative_flops']:.0%}")
            + ("" if seconds is None else f", {seconds:.2g} s{_share(used.get('seconds'))}"),
            human_bytes(most_needed.get("upload_bytes")) + _share(used.get("upload")),
            " ".join(f"{f:.2f}".lstrip("0") for f in tier["frequency"]) if tier["frequency"] else "by Fisher score",
        )
        table.add_row(*map(str, cells))
    table.caption = "time: computation of a round / that of training all blocks without recomputation"
    table.caption_justify = "left"
    return table


def _share(fraction: float | None) -> str:
    return "" if fraction is None else f" ({fraction:.0%})"


def _show_tier(tier: dict[str, Any], console: Console) -> None:
    if not tier["takes_part"] or tier["example"] is None:
        return
    console.print(f"tier {tier['tier']}, for example {tier['example']['picture']}", highlight=False, markup=False)
    for sentence in tier["example"]["reasons"]:
        console.print(f"  – {sentence}", highlight=False, markup=False)
    if not tier["front"]:
        return
    table = Table("", "blocks trained", "least memory", "at time", "least time", "at memory", box=None)
    for n in sorted({point["blocks"] for point in tier["front"]}):
        ways = [point for point in tier["front"] if point["blocks"] == n]
        least = min(ways, key=lambda way: way["memory_bytes"])
        fastest = min(ways, key=lambda way: way["flops"])
        cells = [human_bytes(least["memory_bytes"]), f"{least['relative_flops']:.0%}"]
        if fastest is not least:
            cells += [f"{fastest['relative_flops']:.0%}", human_bytes(fastest["memory_bytes"])]
        table.add_row("", str(n), *cells)
    console.print("  what other budgets would afford (all points: --json, --picture):", highlight=False)
    console.print(table)


def _tier(session: Session, g: int) -> dict[str, Any]:
    federation = session.federation
    budget = federation.tiers[g]
    members = [client for client in federation.clients if client.tier == g]
    found: dict[str, Any] = {
        "tier": g,
        "clients": session.tier_of.count(g),
        "budget": budget.limits,
        "takes_part": bool(members),
        "blocks": None,
        "frequency": None,
        "needs": None,
        "fraction": {},
        "example": None,
        "front": [],
    }
    if not members:
        return found
    scored = session.method.scores_due(0)
    draws = _draws(session, g, ROUNDS_SHOWN)
    if not draws:
        return found | {"takes_part": False}
    counts = [len(draw.blocks) for draw in draws]
    found["blocks"] = [min(counts), max(counts)]
    found["frequency"] = None if scored else _frequency(draws, federation.blocks)
    if federation.costs:
        costs = federation.costs[g]
        found |= _predicted(draws, budget, costs)
        # A strategy that fits nothing to the budget prefers what it took to the rest.
        preference = draws[0].preference or tuple(
            2.0 if l in draws[0].blocks else 1.0 for l in range(federation.blocks)
        )
        found["example"] = {
            "blocks": draws[0].blocks,
            "policies": draws[0].policies,
            "picture": _picture(draws[0]),
            "ranks": draws[0].ranks,
            "reasons": reasons(draws[0], budget, preference, costs, federation.rule),
        }
        if not budget.only_counts:
            found["front"] = [_point(point, costs) for point in front(preference, costs, federation.rule)]
    return found


def _predicted(draws: Sequence[Allocation], budget: Budget, costs: Costs) -> dict[str, Any]:
    """Return the most that any draw needs, and which fraction of the budget that is."""
    taken = [needs(costs, draw) for draw in set(draws)]
    most = Needs(*(max(getattr(one, name) for one in taken) for name in vars(taken[0])))
    seconds = None if budget.speed is None else most.flops / budget.speed
    limits = {
        "memory": (most.memory_bytes, budget.memory),
        "upload": (most.upload_bytes, budget.upload),
        "seconds": (seconds, budget.seconds),
    }
    return {
        "needs": vars(most) | {"seconds": seconds, "relative_flops": most.flops / _everything(costs)},
        "fraction": {
            name: used / limit for name, (used, limit) in limits.items() if used is not None and limit is not None
        },
    }


def _everything(costs: Costs) -> int:
    """FLOPs of a round that trains all blocks and keeps all activations."""
    return needs(costs, Allocation(tuple(range(len(costs.block_bytes))))).flops


def _point(point: Point, costs: Costs) -> dict[str, Any]:
    return {
        "blocks": len(point.allocation.blocks),
        "policies": point.allocation.policies,
        "memory_bytes": point.needs.memory_bytes,
        "flops": point.needs.flops,
        "relative_flops": point.needs.flops / _everything(costs),
        "upload_bytes": point.needs.upload_bytes,
    }


def _picture(allocation: Allocation) -> str:
    """Show each block by one mark: trained or frozen, and what becomes of its activations."""
    lowest = min(allocation.blocks, default=len(allocation.policies))
    marks = [
        MARKS[policy] if l in allocation.blocks else FROZEN_MARKS[policy] if l > lowest else MARKS[None]
        for l, policy in enumerate(allocation.policies)
    ]
    legend = {"●": "trained", "◐": "trained, recomputed", "◒": "trained, compressed", "·": "not reached"}
    legend |= {"○": "frozen, passed", "◌": "frozen, recomputed", "◍": "frozen, compressed"}
    return "".join(marks) + "  (" + ", ".join(f"{mark} {legend[mark]}" for mark in dict.fromkeys(marks)) + ")"


def _draws(session: Session, tier: int, count: int) -> list[Allocation]:
    """Return what clients of a tier would train in first rounds, under equal scores where the method needs some.

    Empty if the method lets them sit out.
    """
    federation = session.federation
    members = [client for client in federation.clients if client.tier == tier]
    scores = (1.0,) * federation.blocks if session.method.scores_due(0) else None
    drawn = (
        session.method.allocate(
            AllocationContext(members[t % len(members)], replace(federation, seed=federation.seed + t), 0, scores)
        )
        for t in range(count)
    )
    return [allocation for allocation in drawn if allocation is not None]


def _frequency(draws: Sequence[Allocation], blocks: int) -> list[float]:
    counts = Counter(block for draw in draws for block in draw.blocks)
    return [counts[block] / len(draws) for block in range(blocks)]


def picture(plan: dict[str, Any]) -> str:
    """Draw a plan; see ``Plan.write_picture``."""
    tiers = [tier for tier in plan["tiers"] if tier["front"]]
    if not tiers:
        raise ConfigError("expected a tier with memory, upload or seconds to draw; all budgets count blocks")

    def draw(figure: Any) -> None:
        rows = figure.subplots(len(tiers), 1, squeeze=False)[:, 0]
        for axes, tier in zip(rows, tiers, strict=True):
            _draw_front(figure, axes, tier)

    return svg_of((8, 3.4 * len(tiers)), draw)


def _draw_front(figure: Any, axes: Any, tier: dict[str, Any]) -> None:
    points = tier["front"]
    image = axes.scatter(
        [point["memory_bytes"] / 1e6 for point in points],
        [point["relative_flops"] for point in points],
        c=[point["blocks"] for point in points],
        cmap="viridis",
        s=28,
    )
    if tier["budget"].get("memory"):
        axes.axvline(tier["budget"]["memory"] / 1e6, color="black", linewidth=1, label="budget")
    used = tier["needs"]
    axes.plot(used["memory_bytes"] / 1e6, used["relative_flops"], "x", color="red", markersize=9, label="plan, at most")
    axes.set_title(f"tier {tier['tier']}: {budget_words(Budget(**tier['budget']))}", loc="left")
    axes.set_xlabel("memory above the model (MB)")
    axes.set_ylabel("computation /\nall blocks, kept")
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.3)
    figure.colorbar(image, ax=axes, label="blocks trained")
