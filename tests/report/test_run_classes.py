import re
from collections import Counter

import numpy as np
import pytest

from fedhello.model.confusion import ConfusionMatrix
from fedhello.report.figures import DataTable, Figure
from fedhello.report.html import svg_of
from fedhello.report.run_classes import MOST_CLASSES, classes
from fedhello.runs.confusion import Confusion

LABELS = ("a", "b", "c")
BEFORE = ConfusionMatrix(LABELS, ((0, 0, 2), (0, 1, 2), (1, 1, 4), (2, 0, 2)))
AFTER = ConfusionMatrix(LABELS, ((0, 0, 3), (0, 1, 1), (1, 1, 3), (1, 2, 1), (2, 2, 2)))


def test_each_class_before_and_after_the_worst_first():
    figure, matrix, mistakes = classes(Confusion(BEFORE, AFTER))
    assert isinstance(figure, Figure) and isinstance(mistakes, DataTable)
    assert [(row[0], row[1], row[2]) for row in figure.table.rows] == [
        ("a", 0.75, 0.5),
        ("b", 0.75, 1.0),
        ("c", 1.0, 0.0),
    ]
    assert "2 classes gained and 1 lost" in figure.text
    assert "8 of 10 samples are on the diagonal" in matrix.text
    assert matrix.table.rows[0] == ["a", "a", 3, 0.75]
    assert [row[:2] for row in mistakes.rows] == [["a taken for b", 1], ["b taken for c", 1]]


def test_there_is_nothing_to_say_without_matrices_or_with_one_class():
    assert classes(None) == [] == classes(Confusion(None, None))
    assert classes(Confusion(None, ConfusionMatrix(("a",), ((0, 0, 3),)))) == []


def test_of_very_many_classes_the_most_mistaken_are_drawn_and_the_table_has_all():
    labels = tuple(f"class {c}" for c in range(300))
    cells = tuple((c, c if c < 200 else c - 1, 1) for c in range(300))
    figure, matrix, _ = classes(Confusion(None, ConfusionMatrix(labels, cells)))
    assert len(figure.table.rows) == 300 and figure.scroll
    shown = matrix.spec["encoding"]["x"]["scale"]["domain"]
    assert len(shown) == MOST_CLASSES and set(labels[200:]) <= set(shown)


def test_cells_of_classes_that_are_not_drawn_are_left_out_of_the_picture():
    pytest.importorskip("vl_convert")
    draw = np.random.default_rng(0)
    true, predicted = draw.integers(200, size=(2, 3000))
    _, matrix, _ = classes(Confusion(None, ConfusionMatrix.of(true, predicted, [f"class {c}" for c in range(200)])))
    shown = matrix.spec["encoding"]["x"]["scale"]["domain"]
    kept = Counter(shown.index(row[1]) for row in matrix.table.rows if row[0] in shown and row[1] in shown)
    assert sum(kept.values()) < len(matrix.table.rows)
    rects = re.findall(r'd="M([\d.]+),[\d.]+h20v7.5h-20Z"', svg_of(matrix.whole_spec()))
    assert Counter(int(float(x) / 20) for x in rects) == kept, "cells per column of 20 pixels"


def test_what_was_scored_before_training_alone_is_titled_so():
    titles = [part.title for part in classes(Confusion(BEFORE, None))]
    assert titles == [
        "Each class, before training",
        "What is taken for what, before training",
        "The most frequent mistakes, before training",
    ]
