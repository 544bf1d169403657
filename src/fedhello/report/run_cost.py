"""The third section of a run's page: what did it cost?"""

from collections.abc import Iterator
from typing import Any

from fedhello.formatting import human_bytes
from fedhello.report.charts import MOST_POINTS, STACKED, axis, discrete, lines, names_axis, rounds_axis, tip
from fedhello.report.figures import (
    Card,
    Cell,
    Column,
    DataTable,
    Figure,
    Part,
    Section,
    energy_words,
    seconds_words,
)
from fedhello.report.plan_reasons import tier_words
from fedhello.report.run_facts import RunFacts, Tally


def cost_cards(facts: RunFacts) -> list[Card]:
    """Return the key figures on costs."""
    up, down = totals(facts)
    cards = [Card("sent by clients", human_bytes(up), f"received {human_bytes(down)}")]
    peaks = [tally.peaks["peak_bytes"] for tally in facts.tiers.values() if "peak_bytes" in tally.peaks]
    if peaks:
        detail = f"{human_bytes(min(peaks))} in the tier with least" if len(peaks) > 1 else "of the largest step"
        cards.append(Card("most memory of a client", human_bytes(max(peaks)), detail))
    seconds = run_seconds(facts)
    if seconds:
        cards.append(
            Card("time", seconds_words(seconds), f"{len(facts.rounds):,} round{'s' * (len(facts.rounds) != 1)}")
        )
    return cards


def cost(facts: RunFacts) -> Section:
    """Return the section."""
    parts: list[Part] = []
    memory = _memory(facts)
    if memory is not None:
        parts.append(memory)
    if facts.tiers or facts.budgets:
        parts.append(_tiers(facts))
    if facts.rounds:
        parts += [_traffic(facts), _seconds(facts)]
    return Section("cost", "What did it cost?", list(_answer(facts)), parts)


def totals(facts: RunFacts) -> tuple[int, int]:
    """Return the bytes that all clients sent and received."""
    if facts.summary is not None:
        return facts.summary.bytes_up, facts.summary.bytes_down
    head = facts.first_head
    up = sum(one.bytes_up for one in facts.rounds) + (0 if head is None else head.bytes_up)
    down = sum(one.bytes_down for one in facts.rounds) + (0 if head is None else head.bytes_down)
    return up, down


def run_seconds(facts: RunFacts) -> float:
    """Return the seconds of the run, as far as they are known."""
    if facts.summary is not None:
        return facts.summary.wall_seconds
    return sum(one.seconds + one.evaluation_seconds for one in facts.rounds)


def tier_name(facts: RunFacts, g: int) -> str:
    """Return a tier's number and budget."""
    if g >= len(facts.budgets):
        return f"tier {g}"
    return tier_words({"tier": g, "budget": facts.budgets[g]})


def _answer(facts: RunFacts) -> Iterator[str]:
    up, down = totals(facts)
    head = sum(change.bytes_up for _, change in facts.heads)
    head += 0 if facts.first_head is None else facts.first_head.bytes_up
    of = f", {human_bytes(head)} of it sums for the head" if head else ""
    yield f"All clients together sent {human_bytes(up)}{of}, and received {human_bytes(down)}."
    yield from _memory_words(facts)
    seconds = run_seconds(facts)
    if seconds:
        trained = sum(tally.seconds for tally in facts.tiers.values())
        evaluated = sum(one.evaluation_seconds for one in facts.rounds)
        yield (
            f"It took {seconds_words(seconds)}; clients trained for {seconds_words(trained)} in all, and evaluation "
            f"took {seconds_words(evaluated)}."
        )
    joules = None if facts.summary is None else facts.summary.energy_joules
    if isinstance(joules, (int, float)):
        # What is measured, or estimated, is the machine and not the run: see ``fedhello.runs.energy``.
        yield (
            f"Meanwhile the machine took {energy_words(joules)} of energy for all its programs, as far as that was "
            "measured or estimated."
        )


def _memory_words(facts: RunFacts) -> Iterator[str]:
    over = sum(tally.over_budget for tally in facts.tiers.values())
    limited = any("memory" in limits for limits in facts.budgets)
    off = [
        tally.peaks["peak_bytes"] / tally.peaks["predicted_peak_bytes"] - 1
        for tally in facts.tiers.values()
        if tally.peaks.get("predicted_peak_bytes") and "peak_bytes" in tally.peaks
    ]
    if off:
        worst = max(off, key=abs)
        side = "above" if worst > 0 else "below"
        how = "within 0.1 % of" if abs(worst) < 0.001 else f"up to {100 * abs(worst):.1f} % {side}"
        yield f"The measured peaks of memory were {how} those predicted."
    if limited:
        yield (
            f"Clients were over their memory budget {'once' if over == 1 else f'{over:,} times'}, and were planned "
            "smaller from then on."
            if over
            else "No client was over its memory budget."
        )


MEMORY = {
    "predicted_peak_bytes": "predicted",
    "peak_bytes": "measured",
    "predicted_memory_bytes": "planned, with reserve",
    "process_bytes": "growth of the process",
}


def _memory(facts: RunFacts) -> Figure | None:
    """Return predicted and measured memory of each tier beside its budget; None if nothing is known of it."""
    rows: list[list[Cell]] = []
    for g in sorted(facts.tiers):
        peaks = facts.tiers[g].peaks
        rows += [[tier_name(facts, g), words, peaks[name]] for name, words in MEMORY.items() if name in peaks]
        if g < len(facts.budgets) and "memory" in facts.budgets[g]:
            rows.append([tier_name(facts, g), "budget", facts.budgets[g]["memory"]])
    if not rows:
        return None
    columns = (Column("tier", "tier"), Column("what", "what"), Column("bytes", "bytes", "bytes"))
    text = (
        "The most memory that a step of a client takes above the loaded model: as predicted from a calibration, as "
        "measured, and as planned with a reserve for what no tensor accounts for."
    )
    budgets = any(row[1] == "budget" for row in rows)
    if budgets:
        text += " The line is the budget."
    shown = [words for words in MEMORY.values() if any(row[1] == words for row in rows)]
    tips = [tip("tier", "tier"), tip("what", "what"), tip("bytes", "bytes", "bytes")]
    x = axis("bytes", "memory above the model", "bytes")
    y = names_axis("tier", axis={"labelOverlap": False})
    bar = {
        "transform": [{"filter": "datum.what !== 'budget'"}],
        "mark": {"type": "bar"},
        "encoding": {
            "y": y,
            "yOffset": {"field": "what", "sort": shown},
            "x": x,
            "color": {"field": "what", "type": "nominal", "sort": shown, "title": None},
            "tooltip": tips,
        },
    }
    line = {
        "transform": [{"filter": "datum.what === 'budget'"}],
        "mark": {"type": "tick", "style": "mark", "height": {"band": 0.9}},
        "encoding": {"y": y, "x": x, "tooltip": tips},
    }
    count = len({row[0] for row in rows})
    spec = {"height": count * (13 * len(shown) + 14), "layer": [bar, *([line] if budgets else [])]}
    return Figure("memory", "Memory of a client", text, spec, DataTable("Memory by tier", columns, rows))


def _tiers(facts: RunFacts) -> DataTable:
    columns = (
        Column("tier", "tier"),
        Column("clients", "clients", "integer"),
        Column("updates", "updates", "integer"),
        Column("measured", "peak", "bytes"),
        Column("budget", "budget", "bytes"),
        Column("over", "over budget", "integer"),
        Column("seconds", "time", "seconds"),
        Column("up", "sent", "bytes"),
        Column("down", "received", "bytes"),
        Column("rejected", "did not count", "integer"),
    )
    members: dict[int, int] = {}
    for one in facts.entries:
        members[one.tier] = members.get(one.tier, 0) + 1
    count = max(len(facts.budgets), max(members, default=-1) + 1, max(facts.tiers, default=-1) + 1)
    rows = [_tier_row(facts, g, facts.tiers.get(g, Tally()), members.get(g, 0)) for g in range(count)]
    return DataTable(
        "Tiers",
        columns,
        rows,
        "Peak: the most measured memory above the model. Time, sent and received: means per client and round.",
    )


def _tier_row(facts: RunFacts, g: int, tally: Tally, clients: int) -> list[Cell]:
    asked = tally.participations + sum(tally.rejections.values())
    limits = facts.budgets[g] if g < len(facts.budgets) else {}
    return [
        tier_name(facts, g),
        clients,
        tally.participations,
        tally.peaks.get("peak_bytes"),
        limits.get("memory"),
        tally.over_budget,
        tally.seconds / tally.participations if tally.participations and tally.seconds else None,
        tally.bytes_up / asked if asked else None,
        tally.bytes_down / asked if asked else None,
        sum(tally.rejections.values()),
    ]


def _traffic(facts: RunFacts) -> Figure:
    head = facts.first_head
    up, down = (0, 0) if head is None else (head.bytes_up, head.bytes_down)
    rows: list[list[Cell]] = [[0, up, down, up, down]]
    for one in facts.rounds:
        up, down = up + one.bytes_up, down + one.bytes_down
        rows.append([one.number, up, down, one.bytes_up, one.bytes_down])
    columns = (
        Column("round", "round", "integer"),
        Column("sent", "sent so far", "bytes"),
        Column("received", "received so far", "bytes"),
        Column("up", "sent in the round", "bytes"),
        Column("down", "received in the round", "bytes"),
    )
    text = (
        f"What all clients have sent and received by then: {human_bytes(up)} and {human_bytes(down)} in the end. Round "
        "0 is what the first head took; replies that did not count are included."
    )
    spec = lines(("received", "sent"), "bytes so far", "bytes", height=200, points=len(rows) <= MOST_POINTS)
    return Figure("traffic", "Bytes", text, spec, DataTable("Bytes by round", columns, rows), half=True)


def _seconds(facts: RunFacts) -> Figure:
    rows: list[list[Cell]] = [[one.number, one.seconds, one.evaluation_seconds] for one in facts.rounds]
    columns = (
        Column("round", "round", "integer"),
        Column("round_seconds", "training and aggregation", "seconds"),
        Column("evaluation", "evaluation", "seconds"),
    )
    text = "Seconds of each round, at the server: allocation, training and aggregation, and evaluation on top."
    tips = [tip("round", "round", "integer"), tip("what", "what"), tip("seconds", "seconds", "seconds")]
    encoding: dict[str, Any] = {
        "y": axis("seconds", "seconds", stack="zero"),
        "color": {"field": "what", "type": "nominal", "title": None, "sort": [c.title for c in columns[1:]]},
        "tooltip": tips,
    }
    few = len(rows) <= MOST_POINTS
    encoding["x"] = discrete("round", "round") if few else rounds_axis()
    mark = STACKED if few else {"type": "area"}
    spec = {"height": 200, "mark": mark, "encoding": encoding}
    return Figure(
        "seconds", "Time", text, spec, DataTable("Seconds by round", columns, rows), ("what", "seconds", 1), half=True
    )
