"""Case 85: a section, key or header given twice; an unclosed quote: those of tables, each an error with the line."""

import pytest

from fedhello.data.dataset import Columns
from fedhello.data.memory import memory_source
from fedhello.data.sources import load
from fedhello.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.csv", "text,label,text\na,x,b\n", "the header of x.csv, line 1; 'text' is given twice"),
        ("x.tsv", "text\tlabel\t text \na\tx\tb\n", "the header of x.tsv, line 1; 'text' is given twice"),
        ("x.csv", "label,caf\u00e9,cafe\u0301\nx,a,b\n", "'caf\u00e9' is given twice"),
        (
            "x.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b", "label": "y", "label": "z"}\n',
            "line 2 gives the key 'label'",
        ),
        ("x.json", '[\n{"text": "a", "label": "x", "text": "b"}]', "line 2 gives the key 'text' twice"),
        ("x.csv", 'text,label\na,x\n"b,y\nc,x\n', "the one that opens a value on line 3 is not"),
        ("x.csv", 'text,label\na,x\nb,"y\nc,x"z\n', "the one that opens on line 3 closes on line 4"),
    ],
)
def test_a_name_given_twice_or_a_quote_left_open_is_an_error_with_the_line(
    tmp_path, monkeypatch, name, content, complaint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        load(name)


def test_columns_given_twice_in_memory_are_an_error():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"])
    for data, where in (
        (frame, "the data"),
        ({"1": ["a"], 1: ["b"]}, "the data"),
        ([{"1": "a", 1: "b"}], "row 1 of the data"),
    ):
        with pytest.raises(DataError, match=rf"different names in {where}; '\w+' is given twice"):
            memory_source(data, Columns(), {}).splits[""]()


def test_rows_that_a_stray_quote_swallows_are_missed_on_the_command_line(place, call):
    lines = (place / "texts.csv").read_text().splitlines()
    lines[10] = lines[10].replace(lines[10][0], '"' + lines[10][0], 1)
    for closed in (False, True):
        if closed:
            text, _, label = lines[30].rpartition(",")
            lines[30] = f'{text}",{label}'
        (place / "stray.csv").write_text("\n".join(lines) + "\n")
        code, _, err = call(place, "plan", "tiny.yaml", "data.name=stray.csv")
        assert (code, err.count("\n")) == (3, 1)
        assert "on line 11" in err
