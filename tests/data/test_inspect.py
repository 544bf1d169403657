import numpy as np
import pytest

from fedhello.data.dataset import Columns, Picture
from fedhello.data.inspect import Asked, guess
from fedhello.data.tables import Table
from fedhello.errors import ConfigError

N = 40
TEXT = [f"a text of words, number {i}" for i in range(N)]
OTHER = [f"another text of words {i}" for i in range(N)]
CLASS = [("red", "blue", "green")[i % 3] for i in range(N)]
NUMBER = [i % 4 for i in range(N)]
ID = [f"id-{i:04d}" for i in range(N)]
SCORE = [f"0.{i % 5}" for i in range(N)]


def guessed(asked=None, **values):
    return guess(Table.of("table", values), asked or Asked())


def question(asked=None, **values):
    with pytest.raises(ConfigError) as caught:
        guessed(asked, **values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"body": TEXT, "topic": CLASS}, Columns(text="body", label="topic")),
        ({"id": ID, "a": CLASS, "b": TEXT}, Columns(text="b", label="a")),
        ({"id": ID, "stars": NUMBER, "score": SCORE, "b": TEXT}, Columns(text="b", label="stars")),
        ({"text": TEXT, "title": OTHER, "label": NUMBER, "source": CLASS}, Columns()),
        ({"sentence": TEXT, "remark": OTHER, "intent": CLASS}, Columns(text="sentence", label="intent")),
        ({"premise": TEXT, "hypothesis": OTHER, "label": NUMBER}, Columns(text=("premise", "hypothesis"))),
        ({"question": TEXT, "answer": OTHER}, Columns(prompt="question", response="answer")),
        (
            {"instruction": TEXT, "context": ["", *OTHER[1:]], "response": OTHER, "category": CLASS},
            Columns(prompt="{instruction}\n\n{context}", response="response", label="category"),
        ),
        ({"question": TEXT, "answer": OTHER, "label": NUMBER, "text": TEXT}, Columns()),
        ({"file": [f"{i}.png" for i in range(N)], "species": CLASS}, Columns(image="file", label="species")),
        ({"image": [Picture(np.zeros((2, 2)), "")] * N, "label": CLASS}, Columns(image="image")),
        ({"img": [{"bytes": b"x", "path": None}] * N, "label": NUMBER}, Columns(image="img")),
    ],
)
def test_columns_are_told_by_name_and_look(values, expected):
    assert guessed(**values) == expected


def test_several_columns_of_texts_are_asked_about():
    assert question(one=TEXT, two=OTHER, label=CLASS) == (
        "expected one column of texts; found several that fit: one, two. Name one as text, or text "
        "twice, one and two, for pairs of texts."
    )


def test_several_columns_of_labels_are_asked_about():
    assert question(text=TEXT, mood=CLASS, place=NUMBER) == (
        "expected one column of labels; found several that fit: mood, place. Name one as label."
    )


def test_columns_that_are_not_there_are_asked_for():
    assert question(text=TEXT, id=ID) == "expected a column of labels; found none that fits. Name it as label."
    assert question(id=ID, label=CLASS) == "expected a column of texts; found none that fits. Name it as text."
    assert "Name it as prompt" in question(Asked(response="two"), one=TEXT, two=OTHER)
    assert "Name it as response" in question(Asked(prompt="{one}"), one=TEXT, two=OTHER)


def test_an_answer_decides():
    values = {"one": TEXT, "two": OTHER, "mood": CLASS, "place": NUMBER}
    assert guessed(Asked(text=("two",), label="place"), **values) == Columns(text="two", label="place")
    assert guessed(Asked(text=("two", "one"), label="mood"), **values) == Columns(text=("two", "one"), label="mood")
    assert guessed(Asked(prompt="{one}!", response="two"), **values) == Columns(prompt="{one}!", response="two")
    assert guessed(Asked(image="one", label="mood"), **values) == Columns(image="one", label="mood")


def test_missing_labels_are_no_labels():
    assert "column of labels; found none" in question(text=TEXT, label=["", *CLASS[1:]])
