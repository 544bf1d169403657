import json

import pytest

from fedhello.data.files import read_table
from fedhello.errors import DataError

ROW = {"text": "one", "label": "x"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "text,label\none,x\n"),
        ("x.CSV", "text,label\none,x\n"),
        ("x.tsv", "text\tlabel\none\tx\n"),
        ("x", "text,label\none,x\n"),
        ("x.txt", "text,label\none,x\n"),
        ("x.jsonl", json.dumps(ROW)),
        ("x.ndjson", json.dumps(ROW)),
        ("x.json", json.dumps([ROW])),
    ],
)
def test_the_suffix_tells_the_format(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    table = read_table(tmp_path / name)
    assert {column: list(table.values(column)) for column in table.columns} == {"text": ["one"], "label": ["x"]}


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_folder_is_no_table(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"expected .*{name} to be a file; it is a folder, a pipe or a device"):
        read_table(tmp_path / name)
