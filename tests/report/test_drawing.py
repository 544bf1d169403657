import sys
import xml.etree.ElementTree as ET
from itertools import islice

import pytest

from fedhello.errors import MissingExtraError
from fedhello.report.drawing import COLOURS, draw_accuracy, draw_blocks, draw_memory, styles, svg_of

CURVES = {"fed-hello": [[0.5, 0.75], [0.5, 0.25]], "a method": [[0.25, 0.5]]}


def drawn():
    def draw(figure):
        draw_accuracy(
            figure, CURVES, {"fed-hello": [0, 1], "a method": [0, 1]}, xlabel="rounds", ylabel="accuracy", target=0.6
        )

    return svg_of((4, 3), draw)


def test_a_picture_is_one_element_of_svg_without_a_date_and_the_same_each_time():
    text = drawn()
    assert ET.fromstring(text).tag.endswith("svg")
    assert "date" not in text.lower()
    assert drawn() == text


def test_names_of_methods_and_axes_are_text_that_can_be_read_and_searched():
    texts = {"".join(node.itertext()).strip() for node in ET.fromstring(drawn()).iter() if node.tag.endswith("text")}
    assert {"fed-hello", "a method", "rounds", "accuracy"} <= texts


def test_all_pictures_can_be_drawn_of_the_least_there_is():
    memory = svg_of((4, 3), lambda figure: draw_memory(figure, {"m": (1e6, (0.5, 0.5))}, ylabel="accuracy"))
    assert ">m<" in memory
    for most in (0, 1):
        blocks = svg_of((4, 3), lambda figure, most=most: draw_blocks(figure, figure.subplots(), 0, [[most]]))
        assert ET.fromstring(blocks).tag.endswith("svg")


def test_looks_of_more_methods_than_colours_differ_by_their_lines():
    found = [(look["color"], look["linestyle"]) for look in islice(styles(), 4 * len(COLOURS) + 1)]
    assert len(set(found)) == 4 * len(COLOURS)
    assert found[-1] == found[0]


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[report\]'"):
        svg_of((1, 1), lambda figure: None)
