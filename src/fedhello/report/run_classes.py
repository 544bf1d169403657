"""The part of a run's page on classes: accuracy of each before and after training, and what is taken for what."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedhello.model.confusion import ClassScore, ConfusionMatrix
from fedhello.report.charts import axis, discrete, heat_map, names_axis, tip
from fedhello.report.figures import MANY, Cell, Column, DataTable, Figure, Part, Spec, percent
from fedhello.runs.confusion import Confusion

MOST_CLASSES = 120
"""The most classes that are drawn; of more, those that are predicted worst."""

NUMBERED = 12
"""The most classes whose counts are written into the cells of the confusion matrix."""

MOST_MISTAKES = 15
"""The most mistakes that are listed."""


def classes(confusion: Confusion | None) -> list[Part]:
    """Return the figures and tables on classes; none if they were not scored apart.

    Where the run's model was not scored at its end, they are of the model before training, which their titles say.
    """
    if confusion is None:
        return []
    after, before = confusion.after or confusion.before, confusion.before if confusion.after else None
    if after is None or len(after.labels) < 2:
        return []
    found: list[Figure | DataTable] = [_per_class(after, before), _matrix(after)]
    if after.mistakes:
        found.append(_mistakes(after))
    return [*found] if confusion.after else [replace(one, title=f"{one.title}, before training") for one in found]


def _per_class(after: ConfusionMatrix, before: ConfusionMatrix | None) -> Figure:
    earlier: Sequence[ClassScore | None] = [None] * len(after.labels) if before is None else before.per_class
    pairs = [(now, then) for now, then in zip(after.per_class, earlier, strict=True) if now.recall is not None]
    pairs.sort(key=lambda pair: (pair[0].recall or 0.0, pair[0].label))
    rows: list[list[Cell]] = [
        [now.label, now.recall, None if then is None else then.recall, now.samples, now.precision, now.f1]
        for now, then in pairs
    ]
    columns = (
        Column("class", "class"),
        Column("after", "accuracy", "percent"),
        Column("before", "before training", "percent"),
        Column("samples", "test samples", "integer"),
        Column("precision", "precision", "percent"),
        Column("f1", "F1", "number"),
    )
    worst, best = rows[0], rows[-1]
    text = (
        f"The share of each class's test samples that is predicted right, the worst class first: {worst[0]} "
        f"{_share(worst[1])}, and {best[0]} {_share(best[1])} at the other end."
    )
    if before is not None:
        text += f" {_changes(rows)} The thin line is before training."
    if len(rows) > MOST_CLASSES:
        text += f" Drawn are the worst {MOST_CLASSES:,} of {len(rows):,} classes; the table has all."
    table = DataTable("Accuracy of each class", columns, rows)
    return Figure("classes", "Each class", text, _class_spec(len(rows)), table, scroll=len(rows) > 40)


def _share(value: Cell) -> str:
    return percent(value) if isinstance(value, float) else "–"


def _changes(rows: Sequence[Sequence[Cell]]) -> str:
    """Say how many classes gained and lost, as far as they were scored before."""
    known = [(row[1], row[2]) for row in rows]
    gained = sum(isinstance(now, float) and isinstance(then, float) and now > then for now, then in known)
    lost = sum(isinstance(now, float) and isinstance(then, float) and now < then for now, then in known)
    return f"Since before training {gained:,} classes gained and {lost:,} lost."


def _class_spec(count: int) -> Spec:
    """Return a line per class: a bar after training, and a line across it where it was before."""
    step = 24 if count <= 20 else 15
    x = axis(None, "accuracy", "percent", scale={"domain": [0, 1]}, axis={"orient": "top"})
    y = names_axis("class", axis={"labelOverlap": False, "labelFontSize": 12 if count <= 20 else 10})
    tips = [
        tip("class", "class"),
        tip("after", "accuracy", "percent"),
        tip("before", "before training", "percent"),
        tip("samples", "test samples", "integer"),
    ]
    bar = {
        "mark": {"type": "bar", "height": {"band": 0.62}},
        "encoding": {"y": y, "x": {**x, "field": "after"}, "tooltip": tips},
    }
    line = {
        "transform": [{"filter": "isValid(datum.before)"}],
        "mark": {"type": "tick", "style": "mark", "height": {"band": 0.9}},
        "encoding": {"y": y, "x": {**x, "field": "before"}, "tooltip": tips},
    }
    first = [{"window": [{"op": "row_number", "as": "place"}]}, {"filter": f"datum.place <= {MOST_CLASSES}"}]
    return {"transform": first, "height": min(count, MOST_CLASSES) * step, "layer": [bar, line]}


def _matrix(matrix: ConfusionMatrix) -> Figure:
    samples = {score.label: score.samples for score in matrix.per_class}
    shown = _most_mistaken(matrix)
    rows: list[list[Cell]] = [
        [matrix.labels[y], matrix.labels[p], n, n / samples[matrix.labels[y]]] for y, p, n in matrix.cells
    ]
    columns = (
        Column("true", "true class"),
        Column("predicted", "predicted class"),
        Column("samples", "samples", "integer"),
        Column("share", "share of the true class", "percent"),
    )
    right = sum(n for y, p, n in matrix.cells if y == p)
    text = (
        f"Rows are true classes, columns predicted ones, the stronger the larger the share of the true class. "
        f"{right:,} of {matrix.samples:,} samples are on the diagonal, where they belong."
    )
    spec = _matrix_spec(shown)
    drawn = rows
    if len(shown) < len(matrix.labels):
        text += (
            f" Drawn are the {len(shown):,} classes with the most mistakes of {len(matrix.labels):,}, and what of them "
            "is taken for one another; the table has all."
        )
        # A cell of a class without a place would be drawn at the edge.
        spec["transform"] = [{"filter": {"field": end, "oneOf": shown}} for end in ("true", "predicted")]
        kept = set(shown)
        drawn = [row for row in rows if row[0] in kept and row[1] in kept]
    return Figure(
        "confusion", "What is taken for what", text, spec, DataTable("Confusion matrix", columns, rows),
        canvas=len(drawn) > MANY,
    )  # fmt: skip


def _most_mistaken(matrix: ConfusionMatrix) -> list[str]:
    """Return the classes that are drawn, in the order of the model."""
    if len(matrix.labels) <= MOST_CLASSES:
        return list(matrix.labels)
    wrong = dict.fromkeys(range(len(matrix.labels)), 0)
    for y, p, n in matrix.mistakes:
        wrong[y] += n
        wrong[p] += n
    kept = sorted(wrong, key=lambda c: (-wrong[c], c))[:MOST_CLASSES]
    return [matrix.labels[c] for c in sorted(kept)]


def _matrix_spec(shown: Sequence[str]) -> dict[str, Any]:
    few = len(shown) <= NUMBERED
    size = 12 if few else 10 if len(shown) <= 40 else 8
    label = {
        "labelFontSize": size,
        "labelLimit": 110,
        "labelOverlap": "greedy",
        "grid": False,
        "domain": False,
        "ticks": False,
    }
    domain = {"domain": list(shown), "paddingInner": 0.04 if few else 0}
    x = discrete("predicted", "predicted", scale=domain, axis={**label, "labelAngle": -45 if few else -90})
    y = discrete("true", "true", scale=domain, axis=label)
    share = {
        "field": "share",
        "scale": {"type": "sqrt", "domain": [0, 1]},
        "legend": {"title": "share of the true class", "format": ".0%"},
    }
    tips = [
        tip("true", "true"),
        tip("predicted", "predicted"),
        tip("samples", "samples", "integer"),
        tip("share", "share of the true class", "percent"),
    ]
    height = max(200, min(900, len(shown) * (46 if few else 11)))
    return dict(heat_map(x, y, share, height=height, tips=tips, numbers="samples" if few else None))


def _mistakes(matrix: ConfusionMatrix) -> DataTable:
    samples = {c: score.samples for c, score in enumerate(matrix.per_class)}
    rows: list[list[Cell]] = [
        [f"{matrix.labels[y]} taken for {matrix.labels[p]}", n, n / samples[y]]
        for y, p, n in matrix.mistakes[:MOST_MISTAKES]
    ]
    columns = (
        Column("mistake", "mistake"),
        Column("samples", "samples", "integer"),
        Column("share", "share of the true class", "percent"),
    )
    return DataTable("The most frequent mistakes", columns, rows)
