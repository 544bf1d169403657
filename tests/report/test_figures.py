import pytest

from fedhello.report.figures import Column, DataTable, Figure, Worded, words

COLUMNS = (Column("round", "round", "integer"), Column("b0", "0", "integer"), Column("b1", "1", "integer"))


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (1_234_567, "integer", "1,234,567"),
        (0.12345, "percent", "12.3 %"),
        (58_599_144, "bytes", "58.6 MB"),
        (3725.0, "seconds", "1 h 2 min"),
        (0.0123, "seconds", "0.012 s"),
        (7.2e6, "energy", "2 kWh"),
        (1.5e12, "flops", "1.5 TFLOP"),
        (None, "percent", "–"),
        ("words", "percent", "words"),
    ],
)
def test_values_have_units_and_separators(value, kind, said):
    assert words(value, kind) == said


def test_a_cell_tells_its_value_only_where_its_text_does_not():
    columns = (Column("a", "a"), Column("b", "b", "bytes"), Column("c", "c", "integer"), Column("d", "d", "number"))
    table = DataTable("t", columns, [["x", 2_000_000, 7, None], ["y", Worded("about 1", 1.0), 1234, 0.5]])
    assert table.cells() == [
        [("x", None), ("2 MB", 2_000_000), ("7", None), ("–", "")],
        [("y", None), ("about 1", 1.0), ("1,234", 1234), ("0.5", None)],
    ]


def test_a_wide_table_is_drawn_as_one_row_per_cell_with_numbers_as_numbers():
    figure = Figure("f", "f", "", {}, DataTable("t", COLUMNS, [[1, 5, None], [2, 0, 3]]), ("block", "clients", 1))
    assert figure.records() == [
        {"round": 1, "block": 0, "clients": 5},
        {"round": 1, "block": 1, "clients": None},
        {"round": 2, "block": 0, "clients": 0},
        {"round": 2, "block": 1, "clients": 3},
    ]
