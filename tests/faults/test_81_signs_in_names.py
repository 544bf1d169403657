"""`$`, `=`, `+`, `@` in names: mathtext errors in pictures → escaped; so are HTML and Markdown in report and card."""

import json
import re
from xml.etree import ElementTree

import pytest
import yaml
from markupsafe import escape

from fedhello.data.sources import load
from fedhello.data.tables import Source, Table
from fedhello.errors import DataError
from fedhello.model.card import card, escaped
from fedhello.report.charts import axis
from fedhello.report.comparison_figures import Cost, Looks, State, cost_figure, curve_figure
from fedhello.report.figures import Card, Column, DataTable, Listing, Page, Section
from fedhello.report.html import page_html, stacked, svg_of

NAMES = (
    "$x^", "a_b^{2}", r"\frac{", "100 %", "$$", "_hidden", "{brace", "<script>alert(1)</script>", "a|b", "`code`",
    "&amp;", "**bold**", "[link](x)", "梨", "two\nlines", "{title}", "${base}",
)  # fmt: skip


def texts_of(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(one.itertext()).strip("\u200b") for one in root.iter("{http://www.w3.org/2000/svg}text")]


def as_read(text):
    return " ".join(text.replace("⧵", "\\").split())


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_names_as_they_are(name):
    looks, y = Looks([name]), axis(None, name, "percent", scale={"domain": [0, 1]})
    states = [State(name, t, (0.5,), 0.0) for t in (0, 1)]
    curves = svg_of(stacked([curve_figure("f", "title", "", states, y, looks, 0.5, by_upload=False)]))
    costs = [Cost(name, 0.5, 0.1, 1.0, 2.0, True)]
    memory = svg_of(stacked([cost_figure("f", "title", "", costs, Column("cost", name, "bytes"), y, looks)]))
    assert [as_read(text) for text in texts_of(curves)].count(as_read(name)) == 2  # axis and legend
    assert [as_read(text) for text in texts_of(memory)].count(as_read(name)) == 4  # axes, legend and mark


@pytest.mark.parametrize("name", NAMES)
def test_pages_show_names_as_they_are(name):
    table = DataTable(name, [Column("c", name)], [[name]])
    section = Section("s", name, [name], [table, Listing(name, [name])])
    found = page_html(Page(name, [name], [Card(name, name)], [section]))
    body = found[found.index("<body") : found.index('<script type="application/json" id="themes">')]
    assert body.count(escape(name)) >= 11
    assert "<script>alert" not in body


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
