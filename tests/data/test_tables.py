import pytest

from fedhello.data.tables import Table, case_notes, column_names, first_line
from fedhello.errors import DataError


def test_names_of_columns_are_clean():
    assert column_names([" text", "cafe\u0301", 7], "x") == ["text", "caf\u00e9", "7"]


@pytest.mark.parametrize("names", [("a", "a"), ("a", " a\u00a0"), ("caf\u00e9", "cafe\u0301"), ("1", 1)])
def test_a_name_given_twice_is_refused(names):
    with pytest.raises(DataError, match=r"different names in line 3; '.*' is given twice\. Rename one\."):
        column_names(names, "line 3")


def test_names_that_differ_in_case_are_two_and_noted():
    assert column_names(["text", "Text"], "x") == ["text", "Text"]
    assert case_notes("x", ["text", "Text", "a"]) == [
        "x has the columns 'text' and 'Text'; they are told apart by case"
    ]
    assert case_notes("x", ["text", "a"]) == []


def test_a_table_in_memory_names_its_rows_from_one():
    table = Table.of("x", {"a": [1, 2]})
    assert (table.columns, list(table.values("a")), table.place(1)) == (("a",), [1, 2], "row 2")


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
