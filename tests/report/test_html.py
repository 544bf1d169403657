import sys

import pytest

from fedhello.errors import MissingExtraError
from fedhello.report import html
from fedhello.report.figures import Card, Column, DataTable, Figure, Listing, Page, Section

EVIL = "</script><script>alert(1)</script>"


def page(name):
    table = DataTable(name, [Column("name", name), Column("n", "n", "integer")], [[name, 1234]], note=name)
    spec = {"mark": "bar", "encoding": {"y": {"field": "name"}, "x": {"field": "n", "title": name}}, "height": 40}
    parts = [Figure("f", name, name, spec, table), table, Listing(name, [name], code=name, folded=True)]
    return Page(name, [name], [Card(name, name, name)], [Section("s", name, [name], parts)])


def test_what_a_page_quotes_is_no_markup():
    whole = html.page_html(page(EVIL), live=True)
    assert "<script>alert" not in whole
    assert whole.count("</script>") == 4  # specification, themes, library, script


def test_a_live_page_says_so_and_its_main_part_is_that_of_the_file():
    assert "data-live" in html.page_html(page("a"), live=True).split("<script>")[0]
    assert "data-live" not in html.page_html(page("a")).split("<script>")[0]
    main = html.main_html(page("a"))
    assert main in html.page_html(page("a"))
    assert 'data-v="1234">1,234<' in main


def test_without_the_drawing_library_one_sentence_says_how_to_get_it(monkeypatch):
    html.drawing_library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[report\]'"):
        html.page_html(page("a"))


def test_numbers_keep_their_units_on_their_line():
    assert html.unbroken("81.3 % of 4 MB in 3 s, 5 samples") == "81.3\xa0% of 4\xa0MB in 3\xa0s, 5 samples"


def test_figures_are_drawn_one_below_the_other_and_the_same_each_time():
    figures = [part for part in page("$a$").sections[0].parts if isinstance(part, Figure)] * 2
    drawn = html.svg_of(html.stacked(figures))
    assert drawn.startswith("<svg")
    assert drawn.count("$a$") >= 4
    assert html.svg_of(html.stacked(figures)) == drawn
