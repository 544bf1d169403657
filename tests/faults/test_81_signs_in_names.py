"""`$`, `=`, `+`, `@` in names: mathtext errors in pictures → escaped; so are HTML and Markdown in report and card."""

import html
import json
import re
import warnings
from xml.etree import ElementTree

import pytest
import yaml

from fedhello.data.sources import load
from fedhello.data.tables import Source, Table
from fedhello.errors import DataError
from fedhello.model.card import card, escaped
from fedhello.report import drawing, page
from fedhello.report.drawing import svg_of

NAMES = (
    "$x^", "a_b^{2}", r"\frac{", "100 %", "$$", "_hidden", "{brace", "<script>alert(1)</script>", "a|b", "`code`",
    "&amp;", "**bold**", "[link](x)", "梨", "two\nlines", "{title}", "${base}",
)  # fmt: skip


def texts_of(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(one.itertext()).strip("\u200b") for one in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_names_as_they_are(name):
    points = {name: ([[0.5, 0.6]], [0, 1])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = svg_of((8, 5), lambda figure: drawing.draw_accuracy(
            figure, {name: points[name][0]}, {name: points[name][1]}, xlabel=name, ylabel="y", target=0.5))  # fmt: skip
        memory = svg_of((8, 5), lambda figure: drawing.draw_memory(figure, {name: (0.5, (1.0, 2.0))}, ylabel=name))
    for line in name.split("\n"):
        assert texts_of(curves).count(line) == 2  # axis and legend
        assert texts_of(memory).count(line) == 2


@pytest.mark.parametrize("name", NAMES)
def test_pages_show_names_as_they_are(name):
    found = page._page(name, [page._paragraph(name), page._figure("", name)])
    assert found.count(html.escape(name)) == 4  # title twice
    assert "<script>" not in found


@pytest.mark.parametrize("name", NAMES)
def test_cards_show_names_as_they_are(name):
    found = card(name, "text-classification", "native", [name, "other"])
    _, front, body = found.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == name
    said, code = body.split("```python\n")
    one_line = " ".join(name.split())
    assert f"Labels: 0: {escaped(name)}, 1: other\n" in said
    assert re.sub(r"\\([^A-Za-z0-9\s])", r"\1", escaped(name)) == one_line
    assert "<script>" not in said
    (written,) = re.findall(r"from_pretrained\((\".*\"), num_labels", code)
    assert json.loads(written) == name
    assert eval(written) == name


def test_a_label_of_half_a_character_is_refused_before_training():
    """It could not be written to the model card at the end."""
    table = Table.of("rows", {"text": ["a", "b"], "label": ["x", "\ud800"]})
    with pytest.raises(DataError, match=r"has half of a character"):
        load("rows", source=Source("rows", {"": lambda: table}))
