"""The table of faults names tests that exist, and all that are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")] for line in TABLE.splitlines() if re.match(r"\| \d", line)
]


def shown_by(row):
    """Return the tests that a row names: path and, where one is singled out, name."""
    return [reference.partition("::")[::2] for reference in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", row[3])]


def test_each_case_has_one_row():
    numbers = [int(row[0].strip("| ")) for row in ROWS]
    assert numbers == sorted(set(numbers))
    assert set(range(1, 79)) <= set(numbers)
    assert all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("| "))
def test_a_row_names_tests_that_exist_or_says_that_there_are_none(row):
    if row[3].strip("| ") in ("not covered", "not applicable"):
        return
    assert shown_by(row)
    for path, name in shown_by(row):
        assert (TESTS / path).is_file(), path
        assert not name or re.search(rf"^def {name}\(", (TESTS / path).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_test_of_a_case_is_in_its_row():
    named = {(int(row[0].strip("| ")), path) for row in ROWS for path, _ in shown_by(row)}
    for file in (TESTS / "faults").glob("test_[0-9]*.py"):
        assert (int(file.name.split("_")[1]), f"faults/{file.name}") in named, f"{file.name} is not in the table"
