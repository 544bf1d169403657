"""The labels of clients: a table for the terminal that fits its width, and a heat map for pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fedhello.report.figures import MANY, Column, DataTable, Figure

MOST_CLIENTS = 40
"""The most clients with a row of their own on the terminal."""

NAMED_CLIENTS = 40
"""The most clients that a heat map names on its axis."""

LONGEST_NAME = 24
"""The width to which the name of a class is cut where classes are listed."""


@dataclass(frozen=True)
class ClientPlan:
    """A client and its data.

    Attributes:
        client: The client's id.
        tier: Index of its tier.
        samples: Number of its training samples.
        labels: Number of samples of each class, in the order of the plan's ``labels``.
    """

    client: int
    tier: int
    samples: int
    labels: tuple[int, ...]

    @property
    def largest(self) -> list[int]:
        """The classes that it has samples of, the largest first."""
        return sorted((i for i, count in enumerate(self.labels) if count), key=lambda i: (-self.labels[i], i))


def show_labels(labels: Sequence[str], clients: Sequence[ClientPlan], console: Console) -> None:
    """Print how many samples of each class the clients have.

    Where a column per class is too much for the width, the largest classes of each client are listed.

    Args:
        labels: The names of the classes.
        clients: The clients; nothing is printed for none.
        console: Where to.
    """
    shown, rest = clients[:MOST_CLIENTS], clients[MOST_CLIENTS:]
    if not shown:
        return
    table = _by_class(labels, shown)
    if _width(table, console) > console.width:
        table = _largest_classes(labels, shown, console)
    console.print(table)
    if rest:
        console.print(
            f"and {len(rest)} more clients with {_range([one.samples for one in rest])} samples of "
            f"{_range([len(one.largest) for one in rest])} classes, which --page and --json show",
            highlight=False,
        )


def _by_class(labels: Sequence[str], clients: Sequence[ClientPlan]) -> Table:
    table = Table("client", "tier", "samples", *labels, box=None)
    for one in clients:
        counts = ("·" if count == 0 else str(count) for count in one.labels)
        table.add_row(*_known(one), *counts)
    return table


def _largest_classes(labels: Sequence[str], clients: Sequence[ClientPlan], console: Console) -> Table:
    last = "the largest of them"

    def with_cells(cells: Iterable[str]) -> Table:
        table = Table("client", "tier", "samples", "classes", last, box=None)
        for one, cell in zip(clients, cells, strict=True):
            table.add_row(*_known(one), str(len(one.largest)), cell)
        return table

    room = console.width - _width(with_cells([""] * len(clients)), console) + len(last)
    return with_cells(_listed(labels, one, room) for one in clients)


def _known(client: ClientPlan) -> tuple[str, str, str]:
    return str(client.client), str(client.tier), str(client.samples)


def _listed(labels: Sequence[str], client: ClientPlan, room: int) -> str:
    """List the largest classes of a client with their samples, as many as fit, and what the others have."""
    order, listed = client.largest, ""
    longest = max(8, min(LONGEST_NAME, room - len(" 99, 99 more 999")))
    for k in range(1, len(order) + 1):
        words = ", ".join(f"{_short(labels[i], longest)} {client.labels[i]}" for i in order[:k])
        rest = sum(client.labels[i] for i in order[k:])
        words += f", {len(order) - k} more {rest}" if rest else ""
        if k > 1 and cell_len(words) > room:
            break
        listed = words
    return listed


def _short(name: str, most: int) -> str:
    """Cut the middle out of a name that is too wide; names of classes often begin alike."""
    if cell_len(name) <= most:
        return name
    head = set_cell_size(name, most // 2).rstrip()
    tail = set_cell_size(name[::-1], most - 1 - cell_len(head))[::-1].lstrip()
    return f"{head}…{tail}"


def _width(table: Table, console: Console) -> int:
    """Return the width that a table takes without wrapping."""
    return Measurement.get(console, console.options.update(max_width=1_000_000), table).maximum


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def label_map(labels: Sequence[str], clients: Sequence[ClientPlan]) -> Figure:
    """Return a heat map: each client's share of samples in each class.

    Classes are sorted by their samples, clients by their largest class and its share, so that clients alike stand
    together.

    Args:
        labels: The names of the classes.
        clients: At least one client; up to 1,000 with 100 classes can be read.
    """
    totals = [sum(one.labels[i] for one in clients) for i in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda i: (-totals[i], i))
    place = {label: at for at, label in enumerate(order)}

    def key(one: ClientPlan) -> tuple[int, float, int]:
        if not one.largest:
            return len(labels), 0.0, one.client
        return place[one.largest[0]], -one.labels[one.largest[0]] / one.samples, one.client

    ordered = sorted(clients, key=key)
    cells = sum(len(one.largest) for one in ordered)
    skew = [len(one.largest) for one in ordered]
    shares = [one.labels[one.largest[0]] / one.samples for one in ordered if one.largest]
    return Figure(
        id="labels",
        title="Labels of the clients",
        text="A column per client, a row per class; the stronger the colour, the larger the share of the client's "
        f"samples. A client has samples of {_range(skew)} of the {len(labels):,} classes, and {_percents(shares)} of "
        "them in its largest.",
        spec=_label_spec(labels, order, ordered),
        table=DataTable(
            "Labels of the clients",
            [
                Column("client", "client", "integer"),
                Column("tier", "tier", "integer"),
                Column("samples", "samples", "integer"),
                Column("classes", "classes", "integer"),
                Column("counts", "samples of each class, the largest first"),
            ],
            [
                [one.client, one.tier, one.samples, len(one.largest), _counts(labels, one)]
                for one in sorted(clients, key=lambda one: one.client)
            ],
        ),
        canvas=cells > MANY,
    )


def _label_spec(labels: Sequence[str], order: Sequence[int], clients: Sequence[ClientPlan]) -> dict[str, Any]:
    """Return the specification with data of its own: a row per client, which Vega unfolds into cells."""
    few = len(clients) <= NAMED_CLIENTS
    values = [
        {
            "client": one.client,
            "tier": one.tier,
            "all": one.samples,
            "label": [place for place, i in enumerate(order) if one.labels[i]],
            "samples": [one.labels[i] for i in order if one.labels[i]],
        }
        for one in clients
    ]
    title = "client" if few else f"{len(clients):,} clients, those alike together"
    return {
        "data": {"values": values},
        "params": [{"name": "names", "value": [labels[i] for i in order]}],
        "transform": [
            {"flatten": ["label", "samples"]},
            {"calculate": "names[datum.label]", "as": "class"},
            {"calculate": "datum.samples / datum.all", "as": "share"},
        ],
        "height": len(labels) * (22 if len(labels) <= 20 else 11),
        "mark": "rect",
        "encoding": {
            "x": {
                "field": "client",
                "type": "ordinal",
                "sort": [one.client for one in clients],
                "scale": {"paddingInner": 0, "paddingOuter": 0, "round": False},
                "axis": {"title": title, "labels": few, "ticks": few, "labelAngle": 0, "labelOverlap": True},
            },
            "y": {
                "field": "class",
                "type": "ordinal",
                "sort": [labels[i] for i in order],
                "scale": {"paddingInner": 0, "paddingOuter": 0},
                "axis": {"title": None, "labelLimit": 130, "labelFontSize": 12 if len(labels) <= 20 else 10},
            },
            "color": {
                "field": "share",
                "type": "quantitative",
                "scale": {"type": "sqrt", "domainMin": 0},
                "legend": {"title": "share of the client's samples", "format": ".0%", "gradientLength": 160},
            },
            "tooltip": [
                {"field": "client"},
                {"field": "tier"},
                {"field": "class"},
                {"field": "samples"},
                {"field": "share", "format": ".1%"},
            ],
        },
    }


def _counts(labels: Sequence[str], client: ClientPlan) -> str:
    return ", ".join(f"{labels[i]} {client.labels[i]:,}" for i in client.largest)


def _percents(shares: Sequence[float]) -> str:
    return f"{_range([round(100 * share) for share in shares])} %" if shares else "none"
