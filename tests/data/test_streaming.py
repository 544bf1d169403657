"""Read in parts, a file has the rows, the names of places and the errors that it has when it is read whole."""

import gzip
import io
import json
import tracemalloc

import pytest

from fedhello.data.files import read_table
from fedhello.data.streaming import stream_lines, stream_table
from fedhello.errors import DataError

WIDE = 'id,text\n1,"two\nlines, and ""quotes"""\n\n2,plain\r\n3,"a ""b"", c"\n,\n4,ö\n'

FILES = {
    "commas.csv": WIDE,
    "semicolons.csv": "id;text\n1;a, b\n2;c\n3;d, e\n",
    "excel.csv": "sep=|\nid|text\n1|a\n2|b\n3|c\n",
    "spaced.csv": 'id, text\n1, "a, b"\n2, "c, d"\n3, "e, f"\n',
    "tabs.tsv": "id\ttext\n1\ta\n2\tb\n3\t\n",
    "no-end.csv": "id,text\n1,a\n2,b",
    "mac.csv": "id,text\r1,a\r2,b\r",
    "lines.jsonl": '\n{"id": 1, "text": "a"}\n{"id": 2, "text": null}\n\n{"id": 3, "text": "ö"}\n',
    "odd.jsonl": '{"id": 1,\n "text": "a"}\n{"id": 2, "text": "b"}\n',
    "array.json": '[{"id": 1, "text": "a"}, {"id": 2, "text": "b"}, {"id": 3}]',
}


def rows_of(table, columns=None):
    columns = columns or table.columns
    values = [table.values(column) for column in columns]
    return [(*row, table.place(i)) for i, row in enumerate(zip(*values, strict=True))]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("name", FILES)
def test_parts_are_the_whole(name, size, tmp_path):
    path = tmp_path / name
    path.write_text(FILES[name], newline="")
    whole, parts = read_table(path), [table for table, _ in stream_table(path, None, size)]
    assert all(table.columns == whole.columns for table in parts)
    assert [row for table in parts for row in rows_of(table)] == rows_of(whole)
    assert max(len(rows_of(table)) for table in parts) <= size


def test_parquet_is_read_in_parts(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": [f"t{i}" for i in range(10)], "n": list(range(10))})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=4)
    parts = list(stream_table(tmp_path / "x.parquet", None, 3))
    rows = [row for part, _ in parts for row in rows_of(part)]
    assert rows == rows_of(read_table(tmp_path / "x.parquet"))
    assert parts[-1][1] == 1.0


def test_encodings_and_gzip(tmp_path):
    for name, content, encoding in (
        ("marked.csv", WIDE.encode("utf-16"), None),
        ("excel.csv", WIDE.encode("cp1252"), "cp1252"),
        ("utf8.csv", WIDE.encode(), "cp1252"),
        ("packed.csv.gz", gzip.compress(WIDE.encode()), None),
    ):
        (tmp_path / name).write_bytes(content)
        parts = [table for table, _ in stream_table(tmp_path / name, encoding, 2)]
        whole = read_table(tmp_path / name, encoding)
        assert [row for table in parts for row in rows_of(table)] == rows_of(whole)
        assert parts[0].notes == tuple(note for note in whole.notes if "only separators" not in note)


WRONG = {
    "torn.csv": 'id,text\n1,a\n2,"b\n3,c\n',
    "stray.csv": 'id,text\n1,"a" b\n2,c\n',
    "ragged.csv": "id,text\n1,a\n2,b,c\n",
    "swallowed.csv": "text,label\n" + 'a,x\n"b,y\nc,x\nd",y\n' + "e,x\nf,y\n",
    "header.csv": '"text,label\na,x\nb",y\nc,x\nd,y\n',
    "empty.csv": "\n",
    "latin.csv": "id,text\n1,\udcf6\n",
    "nul.csv": "id,text\n1,a\0\n",
    "json.csv": '{"text": "a"}\n',
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_as_of_the_whole(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(WRONG[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as whole:
        read_table(path)
    with pytest.raises(DataError) as parts:
        list(stream_table(path, None, 100))
    assert str(parts.value) == str(whole.value)


def test_a_line_that_is_no_object_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    for line, said in (
        ("{", "line 2: Expecting property name"),
        ("[1]", "line 2 holds list"),
        ('{"a":1,"a":2}', "twice"),
    ):
        path.write_text('{"text": "a"}\n' + line + "\n")
        with pytest.raises(DataError, match=said):
            list(stream_table(path, None, 10))


def test_lines_of_a_text_are_inputs(tmp_path):
    parts = list(stream_lines(io.StringIO("one\n\n two \r\nthree"), 2))
    assert [rows_of(table) for table, _ in parts] == [[("one", "line 1"), (" two ", "line 3")], [("three", "line 4")]]
    assert parts[0][1] is None
    with pytest.raises(DataError, match="expected standard input to be UTF-8 text; invalid start byte"):
        list(stream_lines(io.TextIOWrapper(io.BytesIO(b"one\n\xff\n"), encoding="utf-8"), 2))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_memory_does_not_grow_with_the_file(suffix, tmp_path):
    peaks = []
    for count in (20_000, 80_000):
        path = tmp_path / f"{count}{suffix}"
        with path.open("w") as file:
            file.write("id,text\n" if suffix == ".csv" else "")
            for i in range(count):
                text = f"row {i} " * 12
                file.write(f"{i},{text}\n" if suffix == ".csv" else json.dumps({"id": i, "text": text}) + "\n")
        tracemalloc.start()
        assert sum(len(table.values("id")) for table, _ in stream_table(path, None, 1000)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
