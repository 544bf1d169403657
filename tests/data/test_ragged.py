"""Rows of different lengths in one array hold what a list of rows would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhello.data.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), min_size=1, max_size=8)


def as_lists(ragged):
    return [row.tolist() for row in ragged]


@given(ROWS, st.data())
def test_it_is_a_list_of_rows(rows, data):
    found = Ragged.of(rows)
    assert as_lists(found) == rows and len(found) == len(rows)
    positions = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    part = found.subset(np.array(positions, dtype=int))
    assert as_lists(part) == [rows[i] for i in positions]
    assert part.flat().tolist() == [x for i in positions for x in rows[i]]
    assert part.values is found.values
    assert as_lists(Ragged.together([found, part])) == rows + [rows[i] for i in positions]


@given(ROWS)
def test_its_table_is_padded_on_the_right(rows):
    width = max(map(len, rows))
    found = Ragged.of(rows)
    assert found.table(-7).tolist() == [row + [-7] * (width - len(row)) for row in rows]
    assert found.present().tolist() == [[i < len(row) for i in range(width)] for row in rows]


def test_numbers_beyond_its_type_are_refused():
    with pytest.raises(OverflowError):
        Ragged.of([[2**31]])
