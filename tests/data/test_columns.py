import json

import numpy as np
import pytest

from fedhello.data.columns import blank_rows, placeholders, read_rows
from fedhello.data.dataset import Columns, Picture
from fedhello.data.sources import load
from fedhello.data.tables import Table
from fedhello.errors import DataError

DOLLY = {
    "instruction": ["Sum up.", "Name a color", "Name a color"],
    "context": ["A long text", "", None],
    "response": ["Short", "Red", "Blue"],
    "category": ["summary", "open", "open"],
}


def rows(columns, **values):
    return read_rows(Table.of("table", values), columns)


def test_a_template_is_filled_in_and_its_columns_may_be_empty():
    found = rows(Columns(prompt="{instruction}\n\n{context}", response="response", label="category"), **DOLLY)
    assert found.inputs == [("Sum up.\n\nA long text", "Short"), ("Name a color", "Red"), ("Name a color", "Blue")]
    assert found.labels == ["summary", "open", "open"]


def test_instruction_data_needs_no_category():
    assert rows(Columns(prompt="instruction", response="response"), **DOLLY).labels == ["all"] * 3
    labelled = rows(Columns(prompt="instruction", response="response"), **DOLLY, label=["x", "y", "x"])
    assert labelled.labels == ["x", "y", "x"]
    with pytest.raises(DataError, match=r"a column 'kategory' .*data\.label.*Did you mean category\?"):
        rows(Columns(prompt="instruction", response="response", label="kategory"), **DOLLY)


def test_a_response_may_be_a_template_and_braces_can_be_written():
    columns = Columns(prompt="{instruction}", response='{{"answer": "{response}"}}')
    assert rows(columns, **DOLLY).inputs[1] == ("Name a color", '{"answer": "Red"}')


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (Columns(prompt="{instuction}", response="response"), r"'instuction' .*data\.prompt.*Did you mean instruction"),
        (Columns(prompt="context", response="response"), "value of 'context' in each row of table; row 2 lacks one"),
        (Columns(prompt="{category}", response="{answer}"), r"a column 'answer' in table \(data\.response\)"),
        (Columns(text=("instruction", "contxt")), r"'contxt' in table \(data\.text\).*Did you mean context"),
        (Columns(text=("instruction", "context"), label="category"), "'context' in each row of table; row 2"),
    ],
)
def test_what_a_column_lacks_is_named(columns, complaint):
    with pytest.raises(DataError, match=complaint):
        rows(columns, **DOLLY)


@pytest.mark.parametrize("template", ["{", "a } b", "{}", "{a} {b"])
def test_braces_without_partners_are_no_template(template):
    with pytest.raises(ValueError, match=r"brace|'\}'|'\{'"):
        placeholders(template)


@pytest.mark.parametrize("template", ["{{instruction}}", "a }} b"])
def test_a_template_without_a_column_is_refused(template):
    with pytest.raises(ValueError, match="it names no column"):
        placeholders(template)


def test_placeholders_are_taken_literally():
    assert placeholders("a {x.y} {z[0]} {t:1} {u!r} {{no}}") == ["x.y", "z[0]", "t:1", "u!r"]
    assert placeholders("just_a_column") == ["just_a_column"]


def test_pairs_of_texts(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [("a", "b", 0), ("b", "a", 1), ("a", "b", 1)]
    path.write_text("".join(json.dumps(dict(zip(("one", "two", "label"), row, strict=True))) + "\n" for row in pairs))
    data = load(str(path), Columns(text=("one", "two")))
    assert data.kind == "pairs"
    assert data.inputs == (("a", "b"), ("b", "a"))
    assert data.notes[0].startswith("1 of 3 samples repeat an earlier pair of texts")


def test_a_prompt_counts_alone_when_repeats_are_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    table = [dict(zip(DOLLY, row, strict=True)) for row in zip(*DOLLY.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    data = load(str(path), Columns(prompt="{instruction}\n{context}", response="response"))
    assert (data.kind, len(data), data.label_names) == ("instructions", 2, ("all",))
    assert data.notes == (
        "1 of 3 samples repeat an earlier prompt and were left out; 1 of them carry another response than the first",
    )


def test_images_are_paths_bytes_or_mappings():
    found = rows(
        Columns(image="image"),
        image=["a.png", b"xy", {"bytes": b"z", "path": "a.png"}, {"bytes": None, "path": "b.png"}],
        label=[0, 1, 1, np.int64(0)],
    )
    assert [str(picture.content) for picture in found.inputs] == ["a.png", "b'xy'", "b'z'", "b.png"]
    assert [picture.name for picture in found.inputs] == [
        "a.png in row 1 of table",
        "row 2 of table",
        "row 3 of table",
        "b.png in row 4 of table",
    ]
    assert found.labels == ["0", "1", "1", "0"]


@pytest.mark.parametrize(
    ("value", "complaint"), [(None, "row 1 lacks one"), ("", "row 1 lacks one"), (3.5, r"row 1 of table has 3\.5")]
)
def test_what_is_no_image_is_refused(value, complaint):
    with pytest.raises(DataError, match=complaint):
        rows(Columns(image="image"), image=[value], label=["x"])


def test_booleans_are_classes_and_pictures_stay():
    picture = Picture(np.zeros((2, 2), dtype=np.uint8), "zero")
    found = rows(Columns(image="image"), image=[picture, picture], label=[True, False])
    assert found.inputs == [picture, picture]
    assert found.labels == ["True", "False"]


@pytest.mark.parametrize("columns", [Columns(), Columns(prompt="label", response="text")])
def test_lacking_texts_are_counted(columns):
    table = Table.of("table", {"text": ["a", "", " ", None], "label": ["x", "y", "x", "y"]})
    with pytest.raises(DataError, match=r"row 2 lacks one \(3 rows do, up to row 4\)"):
        read_rows(table, columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (Columns(text="a"), [1, 2]),
        (Columns(text=("a", "b")), [0, 1, 2]),
        (Columns(prompt="{a} {b}"), [2]),
        (Columns(prompt="Say: {a}"), []),
        (Columns(image="c"), [1, 2]),
        (Columns(tensor="d"), [1]),
    ],
)
def test_rows_without_an_input(columns, expected):
    values = {
        "a": ["x", " ", float("nan")],
        "b": [None, "y", ""],
        "c": [b"png", {"bytes": None, "path": None}, b""],
        "d": [np.zeros(2), None, [0, 0]],
    }
    assert blank_rows(Table.of("table", values), columns) == expected
