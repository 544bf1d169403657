"""A heat map of who trained which block, for the pages of a run and of a comparison."""

from collections.abc import Sequence

from fedhello.report.charts import discrete, heat_map, tip
from fedhello.report.figures import MANY, Cell, Column, DataTable, Figure


def block_map(
    name: str,
    title: str,
    text: str,
    counts: Sequence[tuple[int, Sequence[int]]],
    *,
    most: int | None = None,
    legend: bool = True,
) -> Figure:
    """Return how many clients trained each block in each round.

    Args:
        name: The figure's id.
        title: Its title.
        text: What it shows.
        counts: The number of each round, and how many clients trained each block in it; at least one round.
        most: The number with the strongest colour; None takes the largest there is.
        legend: Whether to explain the colours.
    """
    blocks = len(counts[0][1])
    columns = (
        Column("round", "round", "integer"),
        *(Column(f"b{block}", str(block), "integer") for block in range(blocks)),
    )
    rows: list[list[Cell]] = [[number, *row] for number, row in counts]
    explained = {"title": "clients", "tickMinStep": 1, "format": ",d"}
    value = {
        "field": "clients",
        "scale": {"domainMin": 0} if most is None else {"domain": [0, most]},
        "legend": explained if legend else None,
    }
    many = len(rows) * blocks > MANY
    spec = heat_map(
        discrete("round", "round"),
        discrete("block", "block", sort="descending"),
        value,
        height=max(120, min(420, blocks * (26 if blocks <= 12 else 14))),
        tips=[tip("round", "round", "integer"), tip("block", "block"), tip("clients", "clients", "integer")],
        few=not many,
    )
    table = DataTable(f"{title}: clients by round and block", columns, rows)
    return Figure(name, title, text, spec, table, ("block", "clients", 1), many)
