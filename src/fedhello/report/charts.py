"""Specifications of the kinds of figures that pages draw: lines, bars, heat maps. Colours are the theme's."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedhello.report.figures import Kind, Spec

Encoding = dict[str, Any]

SI = "replace(format(datum.value, '~s'), regexp('([a-zA-Zµ]?)$'), ' $1')"
"""A number with the prefix of its unit, set apart: 5 M."""

AXES: Mapping[Kind, Encoding] = {
    "percent": {"format": ".0%"},
    "integer": {"format": ",d", "tickMinStep": 1},
    "bytes": {"tickCount": 6, "labelExpr": f"{SI} + 'B'"},
    "flops": {"labelExpr": f"{SI} + 'FLOP'"},
    "seconds": {"labelExpr": "format(datum.value, ',') + ' s'"},
    "energy": {"labelExpr": f"{SI} + 'J'"},
}
"""How an axis of a kind of values is labelled."""

FORMATS: Mapping[Kind, str] = {"percent": ".1%", "integer": ",d", "number": ".4~f", "seconds": ".3~f"}


def axis(field: str | None, title: str | None, kind: Kind = "number", **more: Any) -> Encoding:
    """Return the encoding of numbers along an axis.

    Args:
        field: The column; None if layers name it.
        title: Of the axis.
        kind: How its labels are written.
        more: Further keys, such as ``scale``.
    """
    found: Encoding = {
        "type": "quantitative",
        "title": title and _plain(title),
        "axis": {**AXES.get(kind, {}), **more.pop("axis", {})},
    }
    return found | ({} if field is None else {"field": field}) | more


def tip(field: str, title: str, kind: Kind = "text") -> Encoding:
    """Return one line of what is shown at the pointer."""
    title = _plain(title)
    if kind == "text":
        return {"field": field, "title": title}
    return {"field": field, "title": title, "type": "quantitative", "format": FORMATS.get(kind, ".3~s")}


def _plain(title: str) -> str:
    """Return a title that Vega-Lite can write into an expression as it is: on one line, and without escapes."""
    return " ".join(title.replace("\\", "\N{REVERSE SOLIDUS OPERATOR}").split())


def rounds_axis() -> Encoding:
    """Return the axis of rounds."""
    return axis("round", "round", "integer", axis={"grid": False})


def lines(
    names: Sequence[str],
    title: str,
    kind: Kind,
    *,
    height: int = 220,
    dashed: Sequence[str] = (),
    scale: Encoding | None = None,
    points: bool = True,
    below: Sequence[Spec] = (),
    above: Sequence[Spec] = (),
) -> Spec:
    """Return lines by round, one per column.

    Args:
        names: The columns, which are also the names in the legend; the last one is drawn on top.
        title: Of the y axis.
        kind: Of the values.
        height: In pixels.
        dashed: The columns that are drawn thin and dashed.
        scale: Of the y axis; None begins at 0.
        points: Whether to mark each round.
        below: Layers below the lines.
        above: Layers above them.
    """
    y = axis(None, title, kind, scale={"zero": True} if scale is None else scale)
    tips = [tip("round", "round", "integer"), *(tip(name, name, kind) for name in reversed(names))]
    drawn: list[Spec] = [
        {
            "transform": [{"filter": f"isValid(datum['{name}'])"}],
            "mark": THIN if name in dashed else {**THICK, "point": {"size": 32} if points else False},
            "encoding": {"x": rounds_axis(), "y": {**y, "field": name}, "color": colour(name, names), "tooltip": tips},
        }
        for name in names
    ]
    return {"height": height, "layer": [*below, *drawn, *above]}


THIN: Encoding = {"type": "line", "strokeDash": [6, 4], "strokeWidth": 1.6}
THICK: Encoding = {"type": "line"}

MOST_POINTS = 60
"""The most rounds that are marked on a line, or have a bar."""


def colour(name: str, names: Sequence[str]) -> Encoding:
    """Return the colour of a named line; the last of the names has the first colour, and is first in the legend."""
    return {"datum": name, "type": "nominal", "title": None, "scale": {"domain": list(reversed(names))}}


STACKED: Encoding = {"type": "bar", "cornerRadiusEnd": 0}
"""Bars that stand on others: Vega-Lite draws rounded ones in a plot of their own."""


def bars(
    count: int, category: str, value: Encoding, *, step: int = 22, tips: Sequence[Encoding] = (), **more: Any
) -> Spec:
    """Return horizontal bars, one per row, in the order of the table.

    Args:
        count: The number of rows.
        category: The column with their names.
        value: The axis of their lengths.
        step: Pixels per bar.
        tips: What is shown at the pointer.
        more: Further encodings.
    """
    encoding = {"y": names_axis(category), "x": value, **more} | ({"tooltip": list(tips)} if tips else {})
    return {"height": count * step, "mark": {"type": "bar"}, "encoding": encoding}


def names_axis(field: str, title: str | None = None, **more: Any) -> Encoding:
    """Return the encoding of names along an axis, in the order of the table; too many to read are thinned out."""
    shown = {"labelOverlap": "parity", "labelLimit": 130, **more.pop("axis", {})}
    return {"field": field, "type": "nominal", "sort": None, "title": title, "axis": shown, **more}


def heat_map(
    x: Encoding,
    y: Encoding,
    value: Encoding,
    *,
    height: float,
    tips: Sequence[Encoding],
    numbers: str | None = None,
    strong: float = 0.5,
    few: bool = False,
) -> Spec:
    """Return a heat map.

    Args:
        x: The columns.
        y: The rows.
        value: The value of a cell; ``legend`` in it explains the colours.
        height: In pixels.
        tips: What is shown at the pointer.
        numbers: The column that is written into the cells; for few cells.
        few: Whether cells are so large that they stand apart.
        strong: From which value on a cell's colour is so strong that its number has the colour of the page.
    """
    encoding = {"x": x, "y": y, "color": {"type": "quantitative", **value}, "tooltip": list(tips)}
    cells: Spec = {
        "mark": {"type": "rect", "style": "cell"} if numbers is not None or few else {"type": "rect"},
        "encoding": encoding,
    }
    if numbers is None:
        return {"height": height, **cells}
    text = {"field": numbers, "type": "quantitative", "format": ",d"}
    written = [
        {
            "transform": [{"filter": f"datum['{value['field']}'] {sign} {strong}"}],
            "mark": {"type": "text", "style": style},
            "encoding": {"x": x, "y": y, "text": text, "tooltip": list(tips)},
        }
        for sign, style in (("<", "weak"), (">=", "strong"))
    ]
    return {"height": height, "layer": [cells, *written]}


def discrete(field: str, title: str, **more: Any) -> Encoding:
    """Return the axis of whole numbers of a heat map, one column or row each; only some of them are labelled."""
    shown = {"labelOverlap": "parity", "labelAngle": 0, **more.pop("axis", {})}
    return {"field": field, "type": "ordinal", "title": title, "axis": shown, **more}
