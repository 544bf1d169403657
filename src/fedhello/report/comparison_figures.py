"""Figures of a comparison: intervals, paired differences, costs with their Pareto fronts, and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import fmean
from typing import Any

from fedhello.report.charts import Encoding, axis, names_axis, tip
from fedhello.report.figures import Cell, Column, DataTable, Figure, percent
from fedhello.report.themes import CATEGORIES

JSON = dict[str, Any]

LEAST_ROOM = 0.025
"""An axis of intervals reaches at least so far beyond the values, where an interval does."""

MOST_NAMES = 6
"""The most names beside marks; of more, the legend and the text tell."""

NEAR = 0.06
"""Marks that are less than this share of the axes apart have one text for their names."""

DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond")
"""Methods beyond the colours differ by lines and shapes."""


@dataclass(frozen=True)
class Looks:
    """The colour, line and mark of each method, the same in all figures.

    Attributes:
        methods: All methods.
    """

    methods: Sequence[str]

    def colour(self, shown: Sequence[str], legend: bool = True) -> Encoding:
        """Return the encoding of colours, with a legend of the methods shown."""
        return self._look({"domain": list(self.methods)}, shown) | ({} if legend else {"legend": None})

    def dash(self, shown: Sequence[str]) -> Encoding:
        """Return the encoding of lines."""
        return self._look(self._beyond_colours(DASHES), shown)

    def shape(self, shown: Sequence[str]) -> Encoding:
        """Return the encoding of marks."""
        return self._look(self._beyond_colours(SHAPES), shown)

    def _beyond_colours(self, looks: Sequence[Any]) -> JSON:
        """Give as many methods in turn as there are colours the same look."""
        repeated = (look for look in cycle(looks) for _ in CATEGORIES["light"])
        return {"domain": list(self.methods), "range": list(islice(repeated, len(self.methods)))}

    def _look(self, scale: JSON, shown: Sequence[str]) -> Encoding:
        # The legend is no wider than a phone.
        columns = max(1, 330 // (7 * max(map(len, shown)) + 40))
        legend = {"title": None, "columns": columns, "labelLimit": 280, "values": list(shown), "symbolOpacity": 1}
        return {"field": "method", "type": "nominal", "scale": scale, "legend": legend}


@dataclass(frozen=True)
class Dots:
    """What is drawn of one method in a figure of dots and intervals.

    Attributes:
        method: Its label.
        values: Seed → value.
        mean: The mean of the values.
        interval: The interval of the mean; None without one.
        said: Words in the table, such as a verdict.
    """

    method: str
    values: Mapping[int, float]
    mean: float
    interval: tuple[float, float] | None
    said: str = ""


@dataclass(frozen=True)
class Cost:
    """What a method costs and reaches.

    Attributes:
        method: Its label.
        accuracy: Its mean accuracy.
        deviation: Standard deviation of the accuracy over seeds; None for one seed.
        least: The cost, or that of the weakest tier.
        most: That of the strongest tier; None where there is but one cost.
        on_front: Whether no other method is at least as good and as cheap, and better in one.
    """

    method: str
    accuracy: float
    deviation: float | None
    least: float
    most: float | None
    on_front: bool


@dataclass(frozen=True)
class State:
    """A method after some rounds, over its seeds.

    Attributes:
        method: Its label.
        round: Number of rounds before.
        accuracies: Test accuracy of each seed.
        bytes_up: Bytes that all clients have sent by then, mean over seeds.
    """

    method: str
    round: int
    accuracies: tuple[float, ...]
    bytes_up: float


def within(dots: Sequence[Dots]) -> list[float]:
    """Return the values that an axis of dots has to show, and of wide intervals a part as wide as the values."""
    values = [value for one in dots for value in (*one.values.values(), one.mean)]
    room = max(LEAST_ROOM, max(values) - min(values))
    ends = [end for one in dots for end in one.interval or ()]
    return [*values, *(min(max(end, min(values) - room), max(values) + room) for end in ends)]


def interval_figure(
    name: str,
    title: str,
    text: str,
    dots: Sequence[Dots],
    x: Encoding,
    looks: Looks,
    at: float,
    columns: tuple[str, str],
) -> Figure:
    """Return a figure with a row per method: a ring per seed, the mean, and its interval.

    Args:
        name: The figure's id.
        title: Its title.
        text: What it shows.
        dots: The methods, in order.
        x: The axis.
        looks: The looks of the methods.
        at: Where a line shows what is compared with.
        columns: Titles of the columns of values and of words in the table.
    """
    order = [one.method for one in dots]
    y = names_axis("method", axis={"labelLimit": 150, "ticks": False, "labelOverlap": False})
    once = {
        "aggregate": [{"op": "min", "field": key, "as": key} for key in ("mean", "low", "high")],
        "groupby": ["method"],
    }
    shown = [tip("method", "method"), tip("mean", "mean", "percent")]
    shown += [tip("low", "interval from", "percent"), tip("high", "to", "percent")]
    colour = looks.colour(order, legend=False)
    interval: JSON = {
        "transform": [once, {"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.55, "clip": True},
        "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour, "tooltip": shown},
    }
    seeds: JSON = {
        "mark": {"type": "point", "filled": False, "size": 50, "opacity": 0.8, "strokeWidth": 1.4},
        "encoding": {
            "x": {**x, "field": "value"}, "y": y, "color": colour,
            "tooltip": [tip("method", "method"), tip("seed", "seed"), tip("value", columns[0], "percent")],
        },
    }  # fmt: skip
    means: JSON = {
        "transform": [once],
        "mark": {"type": "point", "size": 130},
        "encoding": {"x": {**x, "field": "mean"}, "y": y, "color": colour, "tooltip": shown},
    }
    spec = {"height": 30 * len(order) + 10, "layer": [_line({"x": {**x, "datum": at}}), interval, seeds, means]}
    heads = [
        Column("method", "method"),
        Column("seed", "seed", "integer"),
        Column("value", columns[0], "percent"),
        Column("mean", "mean over seeds", "percent"),
        Column("low", "interval from", "percent"),
        Column("high", "to", "percent"),
    ]
    heads += [Column("said", columns[1])] if columns[1] else []
    rows = [
        [one.method, seed, value, one.mean, *(one.interval or (None, None)), *([one.said] if columns[1] else [])]
        for one in dots
        for seed, value in one.values.items()
    ]
    return Figure(name, title, text, spec, DataTable(title, heads, rows))


def cost_figure(
    name: str, title: str, text: str, costs: Sequence[Cost], x: Column, y: Encoding, looks: Looks
) -> Figure:
    """Return a picture of accuracy against a cost, with the Pareto front filled and the other methods hollow.

    Args:
        name: The figure's id.
        title: Its title.
        text: What it shows.
        costs: The methods, in order.
        x: The cost.
        y: The axis of the accuracy.
        looks: The looks of the methods.
    """
    order = [one.method for one in costs]
    ranges = any(one.most is not None for one in costs)
    across = axis("cost", x.title, x.kind, scale={"zero": True}, axis={"tickCount": 5})
    up = {**y, "field": "accuracy"}
    shown = [tip("method", "method"), tip("accuracy", str(y["title"]), "percent"), tip("cost", x.title, x.kind)]
    colour, shape = looks.colour(order), looks.shape(order)
    place = {"x": across, "y": up}
    points: JSON = {**place, "color": colour, "shape": shape, "tooltip": shown}
    front = {"filter": "datum.front === 'yes'"}
    deviation: JSON = {
        "transform": [
            {"filter": "isValid(datum.deviation)"},
            {"calculate": "datum.accuracy - datum.deviation", "as": "low"},
            {"calculate": "datum.accuracy + datum.deviation", "as": "high"},
        ],
        "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.6, "clip": True},
        "encoding": {"x": across, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
    }
    # Where each method has a range of costs, no line leads from one to the next.
    step = {"type": "line", "interpolate": "step-after", "style": "reference"}
    span = {"type": "rule", "strokeWidth": 1.6, "opacity": 0.8}
    layers: list[JSON] = [
        {"mark": span, "encoding": {**place, "x2": {"field": "most"}, "color": colour}}
        if ranges
        else {"transform": [front], "mark": step, "encoding": place},
        deviation,
        {"mark": {"type": "point", "filled": False, "size": 110, "strokeWidth": 2}, "encoding": points},
        {"transform": [front], "mark": {"type": "point", "size": 110}, "encoding": points},
        *_names(costs, y, place),
    ]
    columns = [Column("method", "method"), Column("accuracy", str(y["title"]), "percent")]
    columns += [Column("deviation", "standard deviation", "percent"), Column("cost", x.title, x.kind)]
    columns += [Column("most", "in the strongest tier", x.kind)] * ranges
    rows: list[list[Cell]] = [
        [one.method, one.accuracy, one.deviation, one.least, *([one.most] * ranges), "yes" if one.on_front else "no"]
        for one in costs
    ]
    table = DataTable(title, [*columns, Column("front", "on the Pareto front")], rows)
    return Figure(name, title, text, {"height": 300, "layer": layers}, table)


def curve_figure(
    name: str,
    title: str,
    text: str,
    states: Sequence[State],
    y: Encoding,
    looks: Looks,
    target: float | None,
    *,
    by_upload: bool,
) -> Figure:
    """Return accuracy by round, or by what all clients have sent: the mean over seeds with a band from worst to best.

    Args:
        name: The figure's id.
        title: Its title.
        text: What it shows.
        states: The scored states of all methods.
        y: The axis of the accuracy.
        looks: The looks of the methods.
        target: The target accuracy, drawn as a line; None draws none.
        by_upload: Whether the axis is the upload.
    """
    order = list(dict.fromkeys(one.method for one in states))
    x = axis("round", "round (0: before training)", "integer")
    if by_upload:
        x = axis("sent", "sent by all clients so far", "bytes", axis={"tickCount": 5})
    colour, dash = looks.colour(order), looks.dash(order)
    shown = [tip("method", "method"), tip("round", "round"), tip("sent", "sent", "bytes")]
    shown += [tip("mean", "mean", "percent"), tip("low", "lowest seed", "percent"), tip("high", "highest", "percent")]
    few = max(one.round for one in states) <= 30
    line = {"type": "line", "point": {"size": 40} if few else False, "clip": True}
    layers: list[JSON] = [
        {
            "mark": {"type": "area", "style": "band", "clip": True, **({"opacity": 0.09} if len(order) > 4 else {})},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
        },
        {
            "mark": line,
            "encoding": {
                "x": x, "y": {**y, "field": "mean"}, "color": colour, "strokeDash": dash, "tooltip": shown,
            },
        },
    ]  # fmt: skip
    if target is not None:
        at = {"y": {**y, "datum": target}}
        words = {
            "type": "text",
            "style": "weak",
            "align": "left",
            "dx": 4,
            "dy": -7,
            "text": f"target {percent(target)}",
        }
        layers += [_line(at), {**_line(at), "mark": words, "encoding": {**at, "x": {"value": 0}}}]
    columns = [
        Column("method", "method"),
        Column("round", "round", "integer"),
        Column("sent", "sent by all clients", "bytes"),
        Column("mean", f"{y['title']}, mean over seeds", "percent"),
        Column("low", "lowest seed", "percent"),
        Column("high", "highest seed", "percent"),
    ]
    rows: list[list[Cell]] = [
        [one.method, one.round, one.bytes_up, fmean(one.accuracies), min(one.accuracies), max(one.accuracies)]
        for one in states
    ]
    return Figure(name, title, text, {"height": 320, "layer": layers}, DataTable(title, columns, rows))


def _line(place: JSON) -> JSON:
    """Return a line across the figure; its data are one empty row, so that it is drawn once."""
    return {"data": {"values": [{}]}, "mark": {"type": "rule", "style": "reference", "clip": True}, "encoding": place}


def _names(costs: Sequence[Cost], y: Encoding, place: JSON) -> list[JSON]:
    """Return the names of the methods on the front, unless they are many; those on one another have one text."""
    low, high = y["scale"]["domain"]
    widest = max(one.most or one.least for one in costs) or 1.0
    groups: list[list[Cost]] = []
    for one in (cost for cost in costs if cost.on_front):
        beside = [
            group
            for group in groups
            if abs(group[0].least - one.least) < NEAR * widest
            and abs(group[0].accuracy - one.accuracy) < NEAR * (high - low)
        ]
        if beside:
            beside[0].append(one)
        else:
            groups.append([one])
    if len(groups) > MOST_NAMES:
        return []
    # A name stays within the figure: it ends at marks on the right, and begins at the others.
    right = [group for group in groups if group[0].least > widest / 2]
    left = [group for group in groups if group not in right]
    return [
        {
            "data": {"values": [_text(group) for group in found]},
            "mark": {"type": "text", "style": "weak", "dy": -10, "align": side, "dx": dx, "limit": 240},
            "encoding": {**place, "text": {"field": "names"}},
        }
        for side, dx, found in (("left", 8, left), ("right", -8, right))
        if found
    ]


def _text(group: Sequence[Cost]) -> JSON:
    names = ", ".join(one.method for one in group)
    return {"cost": group[0].least, "accuracy": group[0].accuracy, "names": names}
