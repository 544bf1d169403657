"""Scores by class and by client on a terminal: all of few, the worst of many."""

import io

import pytest
from rich.console import Console

from fedhello.model.confusion import ConfusionMatrix
from fedhello.report.scores import class_tables, client_lines, client_table
from fedhello.results.per_client import ClientScore, ClientScores


def printed(*tables):
    text = io.StringIO()
    for table in tables:
        Console(file=text, width=120, markup=False).print(table)
    return text.getvalue()


def test_few_classes_are_shown_whole():
    matrix = ConfusionMatrix(("a", "b", "c"), ((0, 0, 9), (0, 1, 1), (1, 1, 4)))
    lines = printed(*class_tables(matrix)).splitlines()
    assert lines[2].split() == ["a", "10", "0.9000", "1.0000", "0.9474"]
    assert lines[4].split() == ["c", "0", "–", "–", "–"]
    assert [line.split() for line in lines[-3:]] == [["a", "9", "1", "·"], ["b", "·", "4", "·"], ["c", "·", "·", "·"]]


def test_of_many_classes_the_worst_and_the_largest_confusions_are():
    labels = tuple(f"c{i:02}" for i in range(40))
    cells = [(i, i, 40 - i) for i in range(40)] + [(i, (i + 1) % 40, i + 1) for i in range(40)]
    scores, confusions = (printed(table) for table in class_tables(ConfusionMatrix(labels, tuple(sorted(cells)))))
    assert "the 30 of 40 classes with the lowest accuracy" in scores
    assert scores.splitlines()[2].split()[:2] == ["c39", "41"]
    assert len(scores.splitlines()) == 32
    assert "30 other pairs are in --json" in confusions
    assert confusions.splitlines()[2].split() == ["c39", "c00", "40", "of", "41"]


def clients(count, name=None):
    return ClientScores(tuple(ClientScore(k, name, 0, 10, k / count) for k in range(count)), "test accuracy")


def test_clients_and_what_they_come_to():
    few = printed(client_table(clients(4, "north")))
    assert few.splitlines()[2].split() == ["0", "north", "0", "10", "0.0000"]
    many = printed(client_table(clients(100))).splitlines()
    assert "100 clients, of which the worst 30" in many[0]
    assert len(many) == 32
    assert list(client_lines(clients(100))) == ["mean over clients 0.4950, worst decile 0.0450"]
    unknown = ClientScores((ClientScore(0, None, 0, 10, None), ClientScore(1, None, 0, 10, 0.5)), "")
    assert list(client_lines(unknown))[1].startswith("1 clients have no accuracy")
    assert "not known here" in next(client_lines(ClientScores(unknown.clients[:1], "")))


@pytest.mark.parametrize("count", [1, 30])
def test_no_row_is_left_out_of_few(count):
    assert len(printed(client_table(clients(count))).splitlines()) == count + 2
