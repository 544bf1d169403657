"""Rows of JSON: lines, arrays, and what is neither."""

import json

import pytest

from fedhello.data.files import read_table
from fedhello.data.sources import load
from fedhello.errors import DataError

ROWS = [
    {"text": "red rose", "label": "plant"},
    {"text": "a cat", "label": "animal"},
    {"text": "fern", "label": "plant"},
]


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_json_lines_are_read_like_csv(file):
    data = load(str(file("x.jsonl", lines(*ROWS) + "\n")))
    assert data.inputs == ("red rose", "a cat", "fern")
    assert data.label_names == ("animal", "plant")
    assert data.labels.tolist() == [1, 0, 1]


def test_a_line_separator_within_a_json_string_ends_no_line(file):
    data = load(str(file("x.jsonl", '{"text": "one\u2028line", "label": 1}\n{"text": "two", "label": 0}\n')))
    assert data.inputs == ("one\u2028line", "two")
    assert data.label_names == ("0", "1")


def test_columns_of_json_lines_are_all_that_a_line_names(file):
    assert read_table(file("x.jsonl", lines({"a": 1}, {"b": 2, "a": 3}))).columns == ("a", "b")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "JSON objects in .*x.jsonl, one per line or in an array; it is empty"),
        ("[]", "it is empty"),
        ('{"text": "a", "label": "x"}\n\n[1, 2]\n', "line 3 holds list"),
        ('{"text": "a", "label": "x"}\n{"text"\n', "line 2: Expecting"),
        ('{"text": "a", "label": "x"}\n[{"text": "a", "label": "x"}]', "line 2 holds list"),
        ('[{"text": "a", "label": "x"},\n ["b", "y"]]', "line 2 holds list"),
        ('[{"text": "a", "label": "x"}\n {"text": "b", "label": "y"}]', "to go on with , or to end with ]; line 2 has"),
        ('[{"text": "a", "label": "x"}', "; the end of the file has neither"),
        ('[{"text": "a", "label": "x"}]\n[1]', "more follows its end on line 2"),
        ('[\n{"text": "a",\n"label": }]', "line 3, in what begins on line 2: Expecting value"),
        (
            '{"text": "a", "label": "x"}\n\n{"text": "b", "label": "y", "text": "c"}',
            "line 3 gives the key 'text' twice",
        ),
        ('{"text": "a", "label": {"b": 1, "b": 2}}', "line 1 gives the key 'b' twice"),
        ('{"text": "a", " text\\u00a0": "b", "label": "x"}', "in line 1 of .*x.jsonl; 'text' is given twice"),
        ('{"text": "a", "te\\ud83dxt": "b", "label": "x"}', "x.jsonl to be Unicode text; .* has half a character"),
        ('{"text": ["a"], "label": ["x"]}', r"it is one object of 'text', 'label', each with many values.*orient"),
        (
            '{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
            "one object of 'train', 'test', .* a file for each split",
        ),
        ('{"text": "a \\ud83d", "label": "x"}', "line 1 has half of a character, U.D83D, at 3"),
        ('{"text": "a", "label": NaN}', "line 1 lacks one"),
        ('{"text": "a", "label": Infinity}', r"line 1 has inf \(float\)"),
        (lines(ROWS[0], {"text": "b", "label": 0.5}), r"strings or integers in the column 'label' .*line 2 has 0\.5"),
        (lines(ROWS[0], {"text": "b", "label": ["x"]}), r"line 2 has \['x'\] \(list\)"),
        (lines(ROWS[0], {"text": "b", "label": None}), "line 2 lacks one"),
        (lines(ROWS[0], {"text": "b"}), "value of 'label' in each row of .*; line 2 lacks one"),
        (lines(ROWS[0], {"text": 7, "label": "x"}), r"texts in the column 'text' .*line 2 has 7 \(int\)"),
    ],
)
def test_bad_json_lines_are_named_by_their_number(file, content, complaint):
    with pytest.raises(DataError, match=complaint):
        load(str(file("x.jsonl", content)))


TWO = [{"text": "one", "label": 1}, {"text": "two", "label": 0}]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (json.dumps(TWO), "x.json is read as one JSON array"),
        (json.dumps(TWO, indent=2), "x.json is read as one JSON array"),
        (json.dumps({"version": "1", "data": TWO}), "x.json is read as the array 'data' of one JSON object"),
        ("\r".join(map(json.dumps, TWO)), None),
        ("\ufeff" + "\r\n".join(map(json.dumps, TWO)), None),
        ("\n".join(json.dumps(row, indent=1) for row in TWO), None),
    ],
)
def test_arrays_and_objects_over_several_lines_are_read(file, content, note):
    data = load(str(file("x.json", content)))
    assert (data.inputs, data.label_names) == (("one", "two"), ("0", "1"))
    assert [line.split("/")[-1] for line in data.notes] == ([note] if note else [])


def test_rows_of_an_array_are_named_by_the_line_on_which_they_begin(file):
    path = file("x.json", json.dumps([*TWO, {"text": "three"}], indent=1))
    with pytest.raises(DataError, match=r"line 10 lacks one"):
        load(str(path))
    assert [read_table(path).place(row) for row in range(3)] == ["line 2", "line 6", "line 10"]


def test_utf_16_is_read_by_its_mark_and_noted(tmp_path):
    (tmp_path / "x.jsonl").write_bytes("\n".join(map(json.dumps, TWO)).encode("utf-16"))
    data = load(str(tmp_path / "x.jsonl"))
    assert data.inputs == ("one", "two")
    assert data.notes[0].endswith("x.jsonl is read as UTF-16")


@pytest.mark.parametrize(
    ("name", "content", "count"), [("x.json", "{}", 1), ("x.jsonl", "{}\n{}\n", 2), ("x.json", "[{}]", 1)]
)
def test_objects_without_keys_are_named(file, name, content, count):
    with pytest.raises(DataError, match=rf"with keys in .*; none of its {count} has any\. Write each sample as"):
        load(str(file(name, content)))


@pytest.mark.parametrize("bad", ["garbage", "{'text': 1}", '{"text": "a", "label": "b",}', ","])
def test_what_a_row_should_be_is_said(file, bad):
    with pytest.raises(
        DataError, match=r"line 4: .* Write each row as .*, on a line of its own, without commas between"
    ):
        load(str(file("x.jsonl", lines(*ROWS) + bad + "\n")))
    with pytest.raises(DataError, match=r"line 2: .* Write each row as .*, with one comma between rows"):
        load(str(file("x.json", f"[{json.dumps(ROWS[0])},\n{bad}]")))
