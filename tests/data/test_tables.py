import json

import numpy as np
import pytest

from fedhello.data.dataset import Columns
from fedhello.data.sources import load
from fedhello.data.files import read_table
from fedhello.errors import DataError, MissingExtraError

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
        ("", "per line in .*x.jsonl; it is empty"),
        ('{"text": "a", "label": "x"}\n\n[1, 2]\n', "line 3 holds list"),
        ('{"text": "a", "label": "x"}\n{"text"\n', "line 2: Expecting"),
        ('[{"text": "a", "label": "x"}]', "line 1 holds list"),
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


def test_a_line_with_more_values_than_the_header_is_refused(file):
    with pytest.raises(DataError, match=r"expected 2 values in each line .*; line 3 has 3\. Put a value that holds"):
        load(str(file("x.csv", "text,label\none,x\ntwo, three,y\n")))


def test_the_nearest_column_is_suggested(file):
    with pytest.raises(DataError, match=r"it has 'text', 'label'\. Did you mean label\?"):
        load(str(file("x.csv", "text,label\none,x\n")), Columns(label="lable"))


def test_parquet_is_read_like_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": [row["text"] for row in ROWS], "label": np.array([3, 1, 3], dtype=np.int64)})
    parquet.write_table(table, tmp_path / "x.parquet")
    data = load(str(tmp_path / "x.parquet"))
    assert data.inputs == ("red rose", "a cat", "fern")
    assert data.label_names == ("1", "3")
    parquet.write_table(table.set_column(1, "label", pyarrow.array([0.5, 1.5, 0.5])), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 1 has 0\.5 \(float\)"):
        load(str(tmp_path / "x.parquet"))


def test_a_broken_parquet_file_is_refused(file):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="to be a Parquet file"):
        load(str(file("x.parquet", "")))


def test_parquet_without_pyarrow_names_the_extra(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[parquet\]'"):
        load(str(file("x.parquet", "")))
