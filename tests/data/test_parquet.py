"""Parquet files: whole, damaged, and with columns of every kind."""

import numpy as np
import pytest

from fedhello.data.dataset import Columns
from fedhello.data.files import read_table
from fedhello.data.sources import load
from fedhello.errors import DataError, MissingExtraError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
TEXTS = ["red rose", "a cat", "fern"]


@pytest.fixture
def file(tmp_path):
    """Write columns as a Parquet file and return its name."""

    def write(columns, **how):
        table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
        parquet.write_table(table, tmp_path / "x.parquet", **how)
        return str(tmp_path / "x.parquet")

    return write


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([3, 1, 3], dtype=np.int64), ("1", "3")),
        ([3.0, 1.0, 3.0], ("1", "3")),
        ([True, False, True], ("False", "True")),
        (pyarrow.array(["p", "q", "p"]).dictionary_encode(), ("p", "q")),
    ],
)
def test_parquet_is_read_like_csv(file, labels, names):
    data = load(file({"text": TEXTS, "label": labels}))
    assert data.inputs == tuple(TEXTS)
    assert data.label_names == names


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"text": TEXTS, "label": [0.5, 1.5, 0.5]}, r"row 1 has 0\.5 \(float\)"),
        ({"text": TEXTS, "label": [1.0, None, float("nan")]}, r"row 2 lacks one \(2 rows do, up to row 3\)"),
        ({"text": TEXTS, "label": [["x"], ["y"], ["x"]]}, r"row 1 has \['x'\] \(list\)"),
        ({"text": TEXTS, "label": [b"x", b"y", b"x"]}, r"row 1 has b'x' \(bytes\)"),
        ({"text": [{"a": t} for t in TEXTS], "label": list("xyx")}, r"row 1 has \{'a': 'red rose'\} \(dict\)"),
        ({"text": [b"a", b"b", b"c"], "label": list("xyx")}, r"row 1 has b'a' \(bytes\)"),
    ],
)
def test_columns_of_other_kinds_are_refused_by_their_row(file, columns, complaint):
    with pytest.raises(DataError, match=rf"x\.parquet.*{complaint}"):
        load(file(columns))


def test_a_column_given_twice_is_refused(file):
    table = pyarrow.Table.from_arrays([pyarrow.array(TEXTS), pyarrow.array(TEXTS)], names=["text", "text"])
    with pytest.raises(DataError, match=r"x\.parquet; 'text' is given twice"):
        load(file(table))


def test_strings_that_are_no_text_are_refused_by_their_row(file):
    bad = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(np.array([0, 1, 2], np.int32)), pyarrow.py_buffer(b"a\xff")]
    )
    table = pyarrow.Table.from_arrays([bad, pyarrow.array(["x", "y"])], names=["text", "label"])
    with pytest.raises(DataError, match=r"can be read in the column 'text' of .*x\.parquet; row 2: 'utf-8' codec"):
        load(file(table))


@pytest.mark.parametrize("name", ["a.b", "a", "a b", "a,b", "a[0]"])
def test_any_name_of_a_column_is_that_column(file, name):
    path = file({"a": [{"b": 1}] * 3, "other": [5] * 3} | {name: TEXTS, "label": list("xyx")})
    assert load(path, Columns(text=name)).inputs == tuple(TEXTS)


def test_a_folder_named_like_a_value_adds_no_column(tmp_path):
    (tmp_path / "label=9").mkdir()
    path = tmp_path / "label=9" / "x.parquet"
    parquet.write_table(pyarrow.table({"text": TEXTS, "label": list("xyx")}), path)
    assert load(str(path)).label_names == ("x", "y")


@pytest.mark.parametrize("much", [0, 3, 0.3, 0.6, -1])
def test_a_part_of_a_file_is_refused(file, tmp_path, much):
    content = (tmp_path / "x.parquet").read_bytes() if file({"text": TEXTS, "label": list("xyx")}) else b""
    size = int(much * len(content)) if isinstance(much, float) else much
    (tmp_path / "x.parquet").write_bytes(content[:size])
    with pytest.raises(DataError, match=r"x\.parquet to be a Parquet file; "):
        load(str(tmp_path / "x.parquet"))


def test_damage_in_the_values_is_refused(file, tmp_path):
    path = file({"text": [f"text number {i}" for i in range(500)], "label": ["x", "y"] * 250}, compression="zstd")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[40:200] = bytes(160)
    (tmp_path / "x.parquet").write_bytes(content)
    assert read_table(tmp_path / "x.parquet").columns == ("text", "label")
    with pytest.raises(DataError, match=r"x\.parquet"):
        load(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[parquet\]'"):
        load(str(tmp_path / "x.parquet"))
