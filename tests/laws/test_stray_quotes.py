"""A stray quote in a table is an error or a character, and never swallows rows unsaid."""

import random
from collections import Counter

import pytest

from fedhello.data.files import read_table
from fedhello.errors import DataError

WORDS = ["the", "a", "red", "rose", "was", "seen,", "by", "cat;", "dog", '"quoted"', "and,", "sold", "for", "five", "$"]
COLUMNS = [("text", "label"), ("label", "text"), ("id", "text", "label"), ("text", "label", "n")]


def made(rng):
    """Return columns, separator, rows, and the rows as cells of CSV; half of the tables have all texts in quotes."""
    columns, separator, quoted = rng.choice(COLUMNS), rng.choice(",;\t"), rng.random() < 0.5
    words = [word for word in WORDS if quoted or not set(word) & set(',;"')]
    rows = []
    for i in range(rng.randint(10, 60)):
        text = " ".join(rng.choices(words, k=rng.randint(1, 8)))
        text += "\nsecond line, here" if quoted and rng.random() < 0.1 else ""
        row = {"text": text, "label": rng.choice(["pos", "neg", "neutral"]), "id": str(i), "n": str(rng.randint(0, 9))}
        rows.append([row[column] for column in columns])
    cells = [
        [cell(value, separator, quoted and c == "text") for c, value in zip(columns, row, strict=True)] for row in rows
    ]
    return columns, separator, rows, cells


def cell(value, separator, quoted):
    return '"' + value.replace('"', '""') + '"' if quoted or set(value) & {separator, '"', "\n"} else value


def outcomes(folder, tables, strays, seed):
    """Count what becomes of tables with stray quotes: an error, whole, or not whole."""
    rng, found = random.Random(seed), Counter()
    for _ in range(tables):
        columns, separator, rows, cells = made(rng)
        for _ in range(strays):
            i, j = rng.randrange(len(cells)), rng.choice([columns.index("text")] * 3 + [*range(len(columns))])
            at = rng.choice([0, len(cells[i][j]), rng.randrange(len(cells[i][j]) + 1)])
            cells[i][j] = cells[i][j][:at] + '"' + cells[i][j][at:]
        (folder / "x.csv").write_text("\n".join(map(separator.join, [columns, *cells])) + "\n")
        try:
            table = read_table(folder / "x.csv")
        except DataError as error:
            assert "on line" in str(error) or "; line " in str(error)
            found["error"] += 1
            continue
        read = zip(*(table.values(column) for column in columns), strict=True)
        same = [[value.replace('"', "") for value in row] for row in read]
        found["whole" if same == [[value.replace('"', "") for value in row] for row in rows] else "not whole"] += 1
    return found


def test_a_table_without_stray_quotes_is_read_whole(tmp_path):
    assert outcomes(tmp_path, 300, strays=0, seed=0) == {"whole": 300}


def test_one_stray_quote_is_an_error_or_a_character(tmp_path):
    found = outcomes(tmp_path, 300, strays=1, seed=1)
    assert found["not whole"] == 0
    assert found["error"] > 100


def test_two_stray_quotes_are_errors_or_characters(tmp_path):
    found = outcomes(tmp_path, 300, strays=2, seed=2)
    assert found["not whole"] == 0
    assert found["error"] > 100


@pytest.mark.parametrize("blank", [0, 1, 5])
@pytest.mark.parametrize("behind", ["", ",metal"])
@pytest.mark.parametrize("row", ["metal,{}iron {}{}", "{}iron {}{},metal", "{1},{0}iron {1}{2},metal"])
def test_two_quotes_with_blank_lines_between_are_an_error(tmp_path, row, blank, behind):
    header = ["label,text", "text,label", "id,text,label"][(row[0] == "{") + (row[1] == "1")]
    lines = [row.format(*(['"', 9, ""] if i == 9 else ["", i, '"' * (i == 60)])) for i in range(80)]
    lines[60] += behind
    lines[30:30] = [""] * blank
    (tmp_path / "x.csv").write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(DataError, match="line 11"):
        read_table(tmp_path / "x.csv")


@pytest.mark.slow
@pytest.mark.parametrize("strays", [0, 1, 2])
def test_hardly_any_table_loses_rows_to_stray_quotes(tmp_path, strays):
    found = outcomes(tmp_path, 5000, strays, seed=3)
    assert found["not whole"] <= (5 if strays == 2 else 0)  # two that are far apart in a table of few other rows
    assert strays or found == {"whole": 5000}


@pytest.mark.parametrize("text", ["Dear Anna,\n\nplease, call me\n\nRegards,\nTom", "one, two\n\n\nthree\nfour, five"])
def test_letters_with_blank_lines_and_commas_are_read(tmp_path, text):
    rows = [["pos", text], ["neg", "short"], ["pos", "short, too"], ["neg", text + "\nbye"]]
    (tmp_path / "x.csv").write_text("label,text\n" + "".join(f'{label},"{value}"\n' for label, value in rows))
    table = read_table(tmp_path / "x.csv")
    assert [list(row) for row in zip(table.values("label"), table.values("text"), strict=True)] == rows
