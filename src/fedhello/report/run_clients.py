"""The second section of a run's page: what did each client do?"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from fedhello.formatting import first_few
from fedhello.model.confusion import ConfusionMatrix
from fedhello.report.blocks import block_map
from fedhello.report.charts import STACKED, axis, bars, discrete, heat_map, tip
from fedhello.report.figures import MANY, Cell, Column, DataTable, Figure, Part, Section, percent
from fedhello.report.labels import ClientPlan, label_map
from fedhello.report.run_facts import RunFacts
from fedhello.session import ClientEntry

MOST_ROWS = 1000
"""The most clients with a row in the table."""

MOST_CELLS = 4000
"""The most cells of a heat map of clients and rounds."""

SAID = {
    "malformed": "the bytes were no update",
    "checksum": "the bytes were not those that were sent",
    "too large": "more bytes than an update has",
    "stale": "of another round or run",
    "duplicate": "the client had replied already",
    "not invited": "from a client that was not asked",
    "wrong tensors": "tensors were missing or had another shape",
    "not finite": "a value was NaN or infinite",
    "wrong count": "an impossible number of samples",
    "out of bounds": "values beyond reason",
    "over budget": "the client ran out of memory or budget",
    "not allowed": "the client's owner did not allow it",
    "failed": "training raised an error",
    "late": "enough others came first",
    "lost": "nothing came back",
}
"""Reasons of rejections in a few words."""


REPLIES = (
    Column("rounds", "updates", "integer"),
    Column("loss", "loss", "number"),
    Column("seconds", "time", "seconds"),
    Column("up", "sent", "bytes"),
    Column("rejected", "refused"),
)
"""Columns on what a client sent."""


def clients(facts: RunFacts) -> Section:
    """Return the section."""
    # Of the run's model alone: what the model before training gets is no answer to what clients did.
    accuracies = accuracy_of_clients(facts, None if facts.confusion is None else facts.confusion.after)
    parts: list[Part] = []
    if facts.rounds:
        parts.append(trained_blocks(facts))
        parts += _who_when(facts)
    if accuracies:
        parts.append(_spread(facts, accuracies))
    if facts.entries:
        parts.append(_table(facts, accuracies))
    parts += _labels(facts)
    if facts.reasons:
        parts.append(_rejections(facts))
    return Section("clients", "What did each client do?", list(_answer(facts, accuracies)), parts)


def accuracy_of_clients(facts: RunFacts, matrix: ConfusionMatrix | None) -> dict[int, float]:
    """Return the test accuracy at each client's own mix of labels; empty if mixes or classes are not known."""
    if matrix is None or facts.histogram is None:
        return {}
    counts, names = facts.histogram
    column = {name: c for c, name in enumerate(names)}
    if not set(matrix.labels) <= set(names):
        return {}
    order = [column[name] for name in matrix.labels]
    at = {one.client: matrix.accuracy_at(row[order]) for one, row in zip(facts.entries, counts, strict=True)}
    return {client: accuracy for client, accuracy in at.items() if accuracy is not None}


def worst_decile(accuracies: Mapping[int, float]) -> tuple[float, list[int]]:
    """Return the mean accuracy of the tenth of the clients that fares worst, and who they are."""
    order = sorted(accuracies, key=lambda client: (accuracies[client], client))
    worst = order[: max(1, round(len(order) / 10))]
    return fmean(accuracies[client] for client in worst), worst


def _answer(facts: RunFacts, accuracies: Mapping[int, float]) -> Iterator[str]:
    took_part = sum(one.participations > 0 for one in facts.clients.values())
    known = len(facts.entries)
    if not facts.rounds:
        yield f"{known:,} clients are known; no round has finished yet."
        return
    updates = sum(one.participations for one in facts.tiers.values())
    yield (
        f"{took_part:,} of {known:,} clients trained in {len(facts.rounds):,} rounds, "
        f"{updates / len(facts.rounds):.3g} in a round on average, and {updates:,} updates counted."
    )
    counts = np.sum([one.contributors for one in facts.rounds], axis=0)
    if counts.size and counts.any():
        most, least = int(counts.argmax()), int(counts.argmin())
        yield (
            "All blocks were trained equally often."
            if counts[most] == counts[least]
            else f"Block {most} was trained most often, {counts[most]:,} times, and block {least} least, "
            f"{counts[least]:,} times (block 0 is next to the input)."
        )
    if accuracies:
        worst, who = worst_decile(accuracies)
        yield (
            f"At their own mixes of labels, clients get {percent(fmean(accuracies.values()))} on average, and the "
            f"worst tenth {percent(worst)}: client{'s' * (len(who) != 1)} {first_few(who, 8)}. That is the test "
            "accuracy of each class, weighted by how often the client has the class; no client was scored by itself."
        )
    yield from _refused(facts)


def _refused(facts: RunFacts) -> Iterator[str]:
    refused = sum(sum(one.rejections.values()) for one in facts.tiers.values())
    if not refused:
        yield "Every reply counted."
    else:
        reasons = sum((one.rejections for one in facts.tiers.values()), Counter[str]())
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        yield f"{refused:,} replies did not count: {listed}."
    if facts.failed:
        number, why = facts.failed[-1]
        yield f"{len(facts.failed):,} attempts at rounds failed, the last at round {number:,}: {why}."


def trained_blocks(facts: RunFacts) -> Figure:
    """Return how many clients trained each block in each round; at least one round has finished."""
    text = (
        f"How many clients trained each of the {len(facts.rounds[0].contributors):,} blocks in each round; block 0 is "
        "next to the input. Blank cells were trained by nobody."
    )
    counts = [(one.number, one.contributors) for one in facts.rounds]
    return block_map("blocks", "Which block was trained when", text, counts)


def _who_when(facts: RunFacts) -> list[Part]:
    """Return who took part in which round, if that is few enough to be seen and no secret of differential privacy."""
    if facts.is_private or not facts.participation or len(facts.entries) * len(facts.rounds) > MOST_CELLS:
        return []
    ids = [one.client for one in facts.entries]
    columns = (
        Column("client", "client", "integer"),
        *(Column(f"r{one.number}", str(one.number), "integer") for one in facts.rounds),
    )
    rows: list[list[Cell]] = [
        [client, *(facts.participation.get((client, one.number)) for one in facts.rounds)] for client in ids
    ]
    # All rounds and clients have a place, also where nobody trained.
    x = discrete("round", "round", scale={"domain": [one.number for one in facts.rounds]})
    y = discrete("client", "client", scale={"domain": ids})
    legend = {"title": "blocks trained", "tickMinStep": 1, "format": ",d"}
    value = {"field": "blocks", "scale": {"domainMin": 0}, "legend": legend}
    tips = [tip("client", "client"), tip("round", "round"), tip("blocks", "blocks trained", "integer")]
    cells = len(ids) * len(facts.rounds)
    height = max(120, min(700, len(ids) * 15))
    spec = heat_map(x, y, value, height=height, tips=tips, few=cells <= MANY)
    valid = {"transform": [{"filter": "isValid(datum.blocks)"}]}
    text = "Which client trained in which round, the stronger the more blocks."
    table = DataTable("Blocks trained by client and round", columns, rows)
    return [Figure("who", "Who trained when", text, {**spec, **valid}, table, ("round", "blocks", 1), cells > MANY)]


def _spread(facts: RunFacts, accuracies: Mapping[int, float]) -> Figure:
    """Return how accuracies spread over clients: a histogram, stacked by tier."""
    low = min(accuracies.values())
    step = 0.02 if low > 0.6 else 0.05
    tier = {one.client: one.tier for one in facts.entries}
    bins: dict[tuple[int, int], int] = {}
    for client, accuracy in accuracies.items():
        at = (min(int(accuracy / step), round(1 / step) - 1), tier[client])
        bins[at] = bins.get(at, 0) + 1
    rows: list[list[Cell]] = [[at * step, (at + 1) * step, f"tier {g}", n] for (at, g), n in sorted(bins.items())]
    columns = (
        Column("from", "from", "percent"),
        Column("to", "to", "percent"),
        Column("tier", "tier"),
        Column("clients", "clients", "integer"),
    )
    worst, who = worst_decile(accuracies)
    text = (
        f"How many clients have which accuracy at their own mix of labels: from {percent(low)} to "
        f"{percent(max(accuracies.values()))}. The mean of the worst tenth, {len(who):,}, is {percent(worst)} (dashed)."
    )
    x = axis("from", "test accuracy at the client's own mix of labels", "percent", bin={"binned": True, "step": step})
    x["scale"] = {"domain": [max(0, int(low / step) - 1) * step, 1]}
    bar = {
        "mark": STACKED,
        "encoding": {
            "x": x,
            "x2": {"field": "to"},
            "y": axis("clients", "clients", "integer", stack="zero"),
            "color": {"field": "tier", "type": "nominal", "title": None},
            "tooltip": [tip("from", "from", "percent"), tip("tier", "tier"), tip("clients", "clients", "integer")],
        },
    }
    line = {"mark": {"type": "rule", "style": "reference"}, "encoding": {"x": {"datum": worst, "type": "quantitative"}}}
    spec = {"height": 180, "layer": [bar, line]}
    return Figure("spread", "How evenly it serves them", text, spec, DataTable("Clients by accuracy", columns, rows))


def _table(facts: RunFacts, accuracies: Mapping[int, float]) -> DataTable:
    named = any(one.facts and "name" in one.facts for one in facts.entries)
    columns = [
        Column("client", "client", "integer"),
        *([Column("name", "name")] if named else []),
        Column("tier", "tier", "integer"),
        Column("samples", "samples", "integer"),
        *([Column("labels", "labels", "integer"), Column("largest", "largest label")] if facts.histogram else []),
        *([Column("accuracy", "accuracy", "percent")] if accuracies else []),
        *([] if facts.is_private else REPLIES),
    ]
    order = _shown_clients(facts, accuracies)
    rows = [_row(facts, facts.entries[k], k, accuracies, named) for k in order]
    note = "Loss: of its last update, on its own samples. Refused: replies that did not count."
    if facts.is_private:
        note = "Who took part is left out, since the run is under differential privacy."
    if accuracies:
        note += " Accuracy: at its own mix of labels."
    if len(order) < len(facts.entries):
        what = "with the lowest accuracy" if accuracies else "first"
        note += f" Shown are the {len(order):,} {what} of {len(facts.entries):,}; fedhello clients RUN --json has all."
    return DataTable("Clients", columns, rows, note)


def _shown_clients(facts: RunFacts, accuracies: Mapping[int, float]) -> list[int]:
    """Return the positions of the clients with a row, ascending."""
    places = range(len(facts.entries))
    if len(places) <= MOST_ROWS:
        return list(places)
    worst = sorted(places, key=lambda k: (accuracies.get(facts.entries[k].client, 2.0), k))
    return sorted(worst[:MOST_ROWS])


def _row(
    facts: RunFacts,
    one: ClientEntry,
    k: int,
    accuracies: Mapping[int, float],
    named: bool,
) -> list[Cell]:
    tally = facts.clients.get(one.client)
    row: list[Cell] = [one.client]
    if named:
        row.append(str((one.facts or {}).get("name", "")))
    row += [one.tier, one.samples or None]
    if facts.histogram is not None:
        row += _label_cells(facts.histogram[0][k], facts.histogram[1])
    if accuracies:
        row.append(accuracies.get(one.client))
    if facts.is_private:
        return row
    if tally is None:
        return [*row, 0, None, None, None, ""]
    refused = ", ".join(f"{count} {reason}" for reason, count in tally.rejections.items())
    return [*row, tally.participations, tally.loss, tally.seconds or None, tally.bytes_up, refused]


def _label_cells(counts: np.ndarray, names: Sequence[str]) -> list[Cell]:
    total = int(counts.sum())
    if not total:
        return [0, ""]
    largest = int(counts.argmax())
    return [int((counts > 0).sum()), f"{names[largest]} ({100 * counts[largest] / total:.0f} %)"]


def _labels(facts: RunFacts) -> list[Part]:
    if facts.histogram is None or len(facts.histogram[1]) < 2:
        return []
    counts, names = facts.histogram
    rows = [
        ClientPlan(one.client, one.tier, int(row.sum()), tuple(row.tolist()))
        for one, row in zip(facts.entries[:MOST_ROWS], counts, strict=False)
    ]
    return [label_map(names, rows)]


def _rejections(facts: RunFacts) -> Figure:
    counted = sum((tally.rejections for tally in facts.tiers.values()), Counter[str]())
    rows: list[list[Cell]] = []
    for reason, count in counted.most_common():
        client, number, detail = facts.reasons[reason]
        example = f"client {client} in round {number}" + (f": {detail}" if detail else "")
        if facts.is_private:
            example = f"in round {number}"
        rows.append([reason, count, SAID.get(reason, ""), example])
    columns = (
        Column("reason", "reason"),
        Column("replies", "replies", "integer"),
        Column("said", "what happened"),
        Column("example", "for example"),
    )
    most = rows[0]
    text = f"Replies that did not count, by reason; the most frequent is “{most[0]}” ({most[2]}), {most[1]:,} times."
    tips = [
        tip("reason", "reason"),
        tip("replies", "replies", "integer"),
        tip("said", "what happened"),
        tip("example", "for example"),
    ]
    spec = bars(len(rows), "reason", axis("replies", "replies", "integer"), tips=tips)
    return Figure("rejections", "What did not count, and why", text, spec, DataTable("Rejections", columns, rows))
