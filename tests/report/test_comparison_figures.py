"""What is drawn and what is left to the reader: specifications, and the numbers beside them."""

import json

import pytest

from fedhello.report.charts import axis
from fedhello.report.comparison_figures import (
    SHAPES,
    Cost,
    Dots,
    Looks,
    State,
    cost_figure,
    curve_figure,
    interval_figure,
    within,
)
from fedhello.report.figures import Column
from fedhello.report.html import stacked, svg_of
from fedhello.report.themes import CATEGORIES

Y = axis(None, "test accuracy", "percent", scale={"domain": [0.5, 0.9]})
LOOKS = Looks(["a", "b", "c"])


def cost(name, accuracy, least, most=None, front=True):
    return Cost(name, accuracy, 0.01, least, most, front)


def test_a_wide_interval_is_seen_only_as_far_again_as_the_values_reach():
    dots = [Dots("a", {0: 0.6, 1: 0.7}, 0.65, (-0.3, 1.6)), Dots("b", {0: 0.6}, 0.6, None)]
    assert (min(within(dots)), max(within(dots))) == (pytest.approx(0.5), pytest.approx(0.8))
    narrow = [Dots("a", {0: 0.65, 1: 0.65}, 0.65, (0.64, 0.66))]
    assert (min(within(narrow)), max(within(narrow))) == (0.64, 0.66)


def test_the_numbers_of_intervals_are_those_of_the_seeds():
    dots = [Dots("a", {0: 0.6, 1: 0.7}, 0.65, (0.5, 0.8), "better"), Dots("b", {0: 0.6}, 0.6, None)]
    figure = interval_figure("f", "title", "text", dots, Y, LOOKS, 0.6, ("accuracy", "verdict"))
    assert figure.records() == [
        {"method": "a", "seed": 0, "value": 0.6, "mean": 0.65, "low": 0.5, "high": 0.8, "said": "better"},
        {"method": "a", "seed": 1, "value": 0.7, "mean": 0.65, "low": 0.5, "high": 0.8, "said": "better"},
        {"method": "b", "seed": 0, "value": 0.6, "mean": 0.6, "low": None, "high": None, "said": ""},
    ]
    assert "<svg" in svg_of(stacked([figure]))


def test_a_method_looks_the_same_in_every_figure_and_beyond_the_colours_its_shape_differs():
    many = [f"m{i}" for i in range(2 * len(CATEGORIES["light"]) + 1)]
    looks = Looks(many)
    assert looks.colour(many[3:5])["scale"] == looks.colour(many)["scale"] == {"domain": many}
    assert looks.colour(many[3:5])["legend"]["values"] == many[3:5]
    shapes = looks.shape(many)["scale"]["range"]
    assert shapes == [SHAPES[0]] * 7 + [SHAPES[1]] * 7 + [SHAPES[2]]


def names_in(figure):
    rows = [layer["data"]["values"] for layer in figure.spec["layer"] if "data" in layer]
    return [row["names"] for found in rows for row in found]


def test_the_front_is_filled_and_named_and_what_lies_on_one_another_shares_a_text():
    costs = [cost("a", 0.7, 10.0), cost("b", 0.7, 10.1), cost("c", 0.8, 90.0), cost("d", 0.7, 80.0, front=False)]
    figure = cost_figure("f", "title", "text", costs, Column("cost", "bytes", "bytes"), Y, Looks(["a", "b", "c", "d"]))
    assert names_in(figure) == ["a, b", "c"]
    assert [row["front"] for row in figure.records()] == ["yes", "yes", "yes", "no"]
    (line,) = [layer for layer in figure.spec["layer"] if layer["mark"]["type"] == "line"]
    assert line["mark"]["interpolate"] == "step-after"
    assert "<svg" in svg_of(stacked([figure]))


def test_ranges_of_costs_are_lines_without_a_front_from_one_to_the_next():
    costs = [cost("a", 0.7, 10.0, 30.0), cost("b", 0.6, 5.0, 8.0)]
    figure = cost_figure("f", "title", "text", costs, Column("cost", "memory", "bytes"), Y, LOOKS)
    assert not [layer for layer in figure.spec["layer"] if layer["mark"]["type"] == "line"]
    assert [row["most"] for row in figure.records()] == [30.0, 8.0]


@pytest.mark.parametrize("target", [None, 0.7])
def test_a_curve_is_a_mean_in_a_band_with_a_line_at_the_target(target):
    states = [State("a", t, (0.5 + t / 10, 0.7 + t / 10), 1000.0 * t) for t in range(3)]
    for by_upload in (False, True):
        figure = curve_figure("f", "title", "text", states, Y, LOOKS, target, by_upload=by_upload)
        assert figure.records()[1] == {
            "method": "a", "round": 1, "sent": 1000.0, "mean": pytest.approx(0.7), "low": 0.6,
            "high": pytest.approx(0.8),
        }  # fmt: skip
        assert ("target 70.0 %" in json.dumps(figure.spec)) == (target is not None)
        assert "<svg" in svg_of(stacked([figure]))
