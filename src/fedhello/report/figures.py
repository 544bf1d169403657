"""What a page is made of: cards, sentences, tables and figures, as plain values; ``fedhello.report.html`` writes them.

A figure is a Vega-Lite specification without data, and a table, which is its data: the page shows it to who reads with
a screen reader or a keyboard, offers it as CSV, and draws from it. So what is drawn, read and downloaded is the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedhello.formatting import human_bytes, human_flops

Kind = Literal["text", "integer", "number", "percent", "bytes", "flops", "seconds", "energy"]
"""How a column's values are written: bytes, FLOPs, seconds and joules with units, ``percent`` of shares 0 … 1."""


@dataclass(frozen=True)
class Worded:
    """A value with words of its own, such as a mean with its deviation.

    Attributes:
        text: What is shown.
        value: What the column is sorted by, and what its CSV has; None for nothing.
    """

    text: str
    value: float | None


Cell = str | int | float | bool | None
"""A value of a table; None is shown as ``–``."""

Spec = Mapping[str, Any]
"""A Vega-Lite specification."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: Its name in the specification of a figure.
        title: Its heading.
        kind: How its values are written.
    """

    key: str
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class DataTable:
    """A table that can be sorted by each column and downloaded as CSV.

    Attributes:
        title: Its caption.
        columns: The columns.
        rows: The values of each row; the first one is its heading.
        note: A sentence below it.
        folded: Whether only its caption is shown at first.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | Worded]]
    note: str = ""
    folded: bool = False

    def cells(self) -> list[list[tuple[str, Cell]]]:
        """Return each cell's text and, where the text alone does not tell, its value; None if it does."""
        kinds = [column.kind for column in self.columns]
        return [[_cell(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in self.rows]


MANY = 800
"""The most marks of a figure in SVG; more are drawn on a canvas."""


@dataclass(frozen=True)
class Figure:
    """A figure, and its data as a table.

    Attributes:
        id: Its name, unique on the page; a live page keeps the drawing of a figure that has not changed.
        title: Its heading.
        text: One or two sentences that say what there is to see; they are the caption and the text alternative.
        spec: The specification without data; fields are the keys of the table's columns. One with data of its own is
            drawn from these, where the same numbers take less room in another form.
        table: The data.
        melt: For data in several columns of one kind, such as one per block: the names for a column's title, for its
            value, and from which column on (``("block", "clients", 1)``). The specification then sees one row per cell.
        scroll: Whether it is so high that it scrolls within the page.
        half: Whether it needs no more than half the width of a wide page; two such in a row stand side by side.
        canvas: Whether to draw on a canvas, for more than about 1,000 marks.
    """

    id: str
    title: str
    text: str
    spec: Spec
    table: DataTable
    melt: tuple[str, str, int] | None = None
    canvas: bool = False
    half: bool = False
    scroll: bool = False

    def records(self) -> list[dict[str, Cell]]:
        """Return the data as the specification sees them."""
        keys = [column.key for column in self.table.columns]
        rows = [dict(zip(keys, map(_plain, row), strict=True)) for row in self.table.rows]
        if self.melt is None:
            return rows
        name, value, first = self.melt
        titles = {column.key: _number(column.title) for column in self.table.columns[first:]}
        return [
            {**{key: row[key] for key in keys[:first]}, name: title, value: row[key]}
            for row in rows
            for key, title in titles.items()
        ]

    def whole_spec(self) -> dict[str, Any]:
        """Return the specification with its data."""
        return {"data": {"values": self.records()}, **self.spec}


@dataclass(frozen=True)
class Card:
    """A key figure at the top of a page.

    Attributes:
        label: What it is.
        value: The number, with its unit.
        detail: What it is to be compared with.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """Sentences as a list, or a text with its line breaks.

    Attributes:
        title: Its heading; empty for none.
        items: The sentences.
        code: A text that is shown as it is, such as a configuration.
        folded: Whether only its heading is shown at first.
    """

    title: str
    items: Sequence[str] = ()
    code: str = ""
    folded: bool = False


Part = DataTable | Figure | Listing


@dataclass(frozen=True)
class Section:
    """A section of a page, which answers one question.

    Attributes:
        id: Its name in links, unique on the page.
        title: The question.
        answer: The answer in plain sentences.
        parts: Figures, tables and lists, in order.
    """

    id: str
    title: str
    answer: Sequence[str]
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """The content of a page.

    Attributes:
        title: Its title.
        lead: Sentences below the title.
        cards: Key figures.
        sections: The sections, in order; the contents link to them.
    """

    title: str
    lead: Sequence[str] = ()
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


def words(value: Cell, kind: Kind) -> str:
    """Write a value for people.

    Example:
        >>> words(0.813, "percent"), words(12345, "integer"), words(75.0, "seconds"), words(None, "bytes")
        ('81.3 %', '12,345', '1 min 15 s', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return _WORDS[kind](value)


def seconds_words(seconds: float) -> str:
    """Write a time for people.

    Example:
        >>> seconds_words(0.0123), seconds_words(12.34), seconds_words(3725)
        ('0.012 s', '12.3 s', '1 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def energy_words(joules: float) -> str:
    """Write an energy for people.

    Example:
        >>> energy_words(900.0), energy_words(7.2e6)
        ('900 J', '2 kWh')
    """
    if joules < 36_000:
        return f"{joules:,.3g} J"
    return f"{joules / 3.6e3:.3g} Wh" if joules < 3.6e6 else f"{joules / 3.6e6:.3g} kWh"


def percent(share: float) -> str:
    """Write a share for people.

    Example:
        >>> percent(0.813)
        '81.3 %'
    """
    return f"{100 * share:.1f} %"


_WORDS: Mapping[Kind, Callable[[Any], str]] = {
    "text": str,
    "integer": lambda value: f"{value:,.0f}",
    "number": lambda value: f"{value:,.4g}",
    "percent": percent,
    "bytes": human_bytes,
    "flops": human_flops,
    "seconds": seconds_words,
    "energy": energy_words,
}


def _number(title: str) -> str | int:
    return int(title) if title.isdigit() else title


def _plain(value: Cell | Worded) -> Cell:
    return value.value if isinstance(value, Worded) else value


def _cell(value: Cell | Worded, kind: Kind) -> tuple[str, Cell]:
    if isinstance(value, Worded):
        return value.text, "" if value.value is None else value.value
    text = words(value, kind)
    return text, (None if kind == "text" or text == str(value) else "" if value is None else value)
