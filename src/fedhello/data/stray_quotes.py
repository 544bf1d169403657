"""Stray quotes in a table of separated values, which make one value of all rows between them."""

import io
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fedhello.errors import DataError

_SHARE = 0.75
_MANY = 5


class Row(NamedTuple):
    """Values, and the lines that they begin and end on."""

    values: list[str]
    first: int
    last: int


def check_swallowed(path: Path, text: str, separator: str, width: int, rows: Sequence[Row]) -> None:
    """Refuse a value of several lines that read as rows of their own.

    Two stray quotes make one value of all rows between them, which no reader of CSV can tell from a long text. Here its
    lines are told by values, such as labels, that they share with other rows or with each other.
    """
    long = [row for row in rows if row.last > row.first and width > 1]
    if not long:
        return
    lines = list(io.StringIO(text, newline=""))
    known = _known(rows, width)
    for row in long:
        alone = [line.split(separator) for line in lines[row.first - 1 : row.last]]
        if _like_rows(alone, known) or any(_has_ends(row.values, i, separator, known) for i in range(width)):
            raise _swallowing(path, row)


def check_header(path: Path, text: str, separator: str, header: Row, rows: Sequence[Row]) -> None:
    """Refuse a header of several lines of which those below the first read as rows."""
    if header.last > header.first:
        lines = list(io.StringIO(text, newline=""))[header.first - 1 : header.last]
        first, *alone = (line.split(separator) for line in lines)
        if len(first) > 1 and _like_rows(alone, _known(rows, len(first))):
            raise _swallowing(path, header)


def _known(rows: Sequence[Row], width: int) -> list[Counter[str]]:
    """Count the values in each column of the rows of one line that have so many."""
    short = [row.values for row in rows if row.last == row.first and len(row.values) == width]
    return [Counter(values[i].strip() for values in short) for i in range(width)]


def _swallowing(path: Path, row: Row) -> DataError:
    return DataError(
        f'expected a quote (") to hold one value in {path}; the one that opens on line {row.first} and '
        f"closes on line {row.last} swallows lines that read as rows of their own. Remove the stray quotes, "
        "or write the table as JSON lines or Parquet."
    )


def _like_rows(lines: Sequence[Sequence[str]], known: Sequence[Counter[str]]) -> bool:
    """Whether most lines have as many values as the header, and most of those in a column occur more than once.

    Blank lines do not count. Some lines may have other lengths, as the first or last has with values beside the stray
    quotes, but only among many, since few lines of prose are alike by chance.
    """
    filled = [values for values in lines if "".join(values).strip()]
    alike = [values for values in filled if len(values) == len(known)]
    if 2 * len(alike) <= len(filled) or len(alike) < min(len(filled), _MANY):
        return False
    for i, others in enumerate(known):
        here = Counter(values[i].strip('" \t\r\n') for values in alike)
        again = sum(count for value, count in here.items() if value and count + others[value] > 1)
        if again >= _SHARE * len(alike):
            return True
    return False


def _has_ends(values: Sequence[str], i: int, separator: str, known: Sequence[Counter[str]]) -> bool:
    """Whether a line within a value ends like a row, with a quote and a known value, and the next begins like one."""
    for line, following in pairwise(values[i].splitlines()):
        end = line.rpartition('"')[2].split(separator)[1:] if '"' in line else []
        begin = following.partition('"')[0].split(separator)[:-1] if '"' in following else []
        found = {i + 1 + k: value for k, value in enumerate(end)} | dict(enumerate(begin))
        if found.keys() == set(range(len(values))) - {i} and any(found[k].strip() in known[k] for k in found):
            return True
    return False
