"""Case 81: `$`, `=`, `+`, `@` in names: mathtext errors in pictures, formulas in CSV: here CSV, escaped."""

import csv
import io
import re
from pathlib import Path

import pytest

import fedhello
from fedhello.formatting import spreadsheet_safe, write_csv
from fedhello.report.tables import csv_text
from fedhello.results.comparison import load_comparison
from fedhello.runs.recorders import CsvFile

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@a",
    " =1",
    "\t=1",
    "\r=1",
    "\n",
    "\uff1d1",
    '=HYPERLINK("http://a","b")',
    "-a",
    "=cmd|' /C calc'!A0",
]
PLAIN = ["a=1", "a", "", "1", "fed-hello", "'=1", -0.5, 0, None, True]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_like_a_formula(text):
    safe = spreadsheet_safe(text)
    assert safe == "'" + text.replace("\r", " ")
    file = io.StringIO()
    write_csv(file, [text], [{text: text}, {text: -0.5}])
    assert list(csv.reader(io.StringIO(file.getvalue(), newline="")))[:2] == [[safe]] * 2
    assert file.getvalue().endswith("-0.5\n")


@pytest.mark.parametrize("value", PLAIN)
def test_other_cells_stay(value):
    assert spreadsheet_safe(value) == value


def test_a_comparison_is_written_without_formulas(two_methods):
    found = load_comparison(two_methods).summary
    text = csv_text(found)
    assert [row["final"] for row in csv.DictReader(io.StringIO(text))] == ["0.7", "0.8", "0.6", "0.9"]
    rows = found.rows()

    class Renamed:
        def rows(self):
            return [row | {"method": "=1+1", "@who": "+x"} for row in rows]

    named = list(csv.DictReader(io.StringIO(csv_text(Renamed()))))
    assert {row["method"] for row in named} == {"'=1+1"}
    assert {row["'@who"] for row in named} == {"'+x"}


def test_a_history_is_written_without_formulas(tmp_path):
    history = CsvFile(tmp_path / "rounds.csv")
    history._rows = [{"round": 1, "=a": -0.5}]
    history._write_all()
    history._add({"round": 2, "=a": "-b"})
    assert (tmp_path / "rounds.csv").read_bytes() == b"round,'=a\r\n1,-0.5\r\n2,'-b\r\n"


def test_nothing_else_writes_csv():
    source = Path(fedhello.__file__).parent
    writers = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"csv\.(Dict)?[wW]riter|to_csv", path.read_text())
    ]
    assert writers == ["formatting.py"]
