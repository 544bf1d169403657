"""A value of several lines is told from rows that a stray quote swallows; more is in test_delimited.py."""

from pathlib import Path

import pytest

from fedhello.data.stray_quotes import Row, check_header, check_swallowed
from fedhello.errors import DataError

PATH = Path("x.csv")


def test_lines_that_read_as_rows_are_refused():
    text = 'text,label\na,x\n"b,y\nc,x\nd",y\ne,x\nf,y\n'
    rows = [Row(["a", "x"], 2, 2), Row(["b,y\nc,x\nd", "y"], 3, 5), Row(["e", "x"], 6, 6), Row(["f", "y"], 7, 7)]
    with pytest.raises(DataError, match="the one that opens on line 3 and closes on line 5 swallows lines"):
        check_swallowed(PATH, text, ",", 2, rows)
    header = Row(["text,label\na,x\nb", "y"], 1, 3)
    with pytest.raises(DataError, match="opens on line 1 and closes on line 3"):
        check_header(PATH, '"text,label\na,x\nb",y\nc,x\n', ",", header, [Row(["c", "x"], 4, 4), Row(["d", "y"], 5, 5)])


def test_prose_of_several_lines_is_a_value():
    rows = [Row(["one\ntwo, three", "x"], 2, 3), Row(["c", "y"], 4, 4)]
    check_swallowed(PATH, 'text,label\n"one\ntwo, three",x\nc,y\n', ",", 2, rows)
