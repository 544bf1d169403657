"""Read tables of separated values (CSV, TSV and their kin): the separator is found, and no row is swallowed."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from fedhello.data.names import clean
from fedhello.data.tables import Table, case_notes, column_names
from fedhello.data.text_files import line_at, read_text, suffix_of
from fedhello.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""The separators that are looked for, in words."""

MOST_CHARACTERS = 10_000_000
"""The most characters of a value."""

_LOOKED_AT = 50
_SAMPLE = 2**20
_SHARE = 0.75
_MANY = 5

_limit = Lock()


class _Row(NamedTuple):
    """Values, and the lines that they begin and end on."""

    values: list[str]
    first: int
    last: int


def read_delimited(path: Path, encoding: str | None = None) -> Table:
    """Read a file of separated values with a header line.

    Args:
        path: The file.
        encoding: See ``read_text``.

    Raises:
        DataError: If it cannot be read, a quote is stray, or a row has more or fewer values than the header.
    """
    text, notes = read_text(path, encoding)
    usual = "\t" if suffix_of(path) == ".tsv" else ","
    named = re.match(r"sep=(.)(?=\r?\n|\r)", text)  # what Excel writes for itself
    if named:
        text = text[named.end() :]
        separator = named[1]
    else:
        _refuse_json(path, text)
        with _long_values():
            separator = _separator(text, usual)
    if separator != usual:
        notes.append(f"{path} is read with values separated by {SEPARATORS.get(separator, repr(separator))}")
    rows, spaced = _rows(path, text, separator)
    if spaced:
        notes.append(f"{path} has spaces before quotes, which are skipped")
    if not rows:
        raise DataError(f"expected a header line, then samples, in {path}; it is empty")
    header, *found = rows
    _check_header(path, text, separator, header, found)
    columns, position = _header(path, header)
    kept, left_out = _checked(path, separator, header, found)
    if left_out and not kept:
        raise DataError(
            f"expected samples below the header in {path}; it has only lines that hold nothing but separators, "
            f"{len(left_out)} of them. Save the table anew with its values."
        )
    if left_out:
        notes.append(
            f"{len(left_out)} lines of {path} hold only separators and are left out, such as line {left_out[0]}"
        )
    _check_swallowed(path, text, separator, len(header.values), kept)
    lines = [row.first for row in kept]
    return Table(
        name=str(path),
        columns=tuple(columns),
        values=lambda column: [row.values[position[column]] for row in kept],
        place=lambda row: f"line {lines[row]}",
        folder=path.parent,
        notes=(*notes, *case_notes(str(path), columns)),
        header=True,
    )


def _refuse_json(path: Path, text: str) -> None:
    if re.match(r'\s*(\[\s*)?\{\s*["}]', text):
        raise DataError(
            f"expected {path} to be a table of separated values; it holds JSON. Rename it to end in .jsonl."
        )


@contextmanager
def _long_values() -> Iterator[None]:
    """Let the reader of the standard library accept long values, which is a setting of the whole program."""
    with _limit:
        before = csv.field_size_limit(MOST_CHARACTERS)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _separator(text: str, usual: str) -> str:
    """Return the first separator by which the header and the rows after it have equally many values."""
    widths = {separator: _widths(text, separator) for separator in (usual, *SEPARATORS)}
    for separator, found in widths.items():
        if found and found[0] > 1 and set(found) == {found[0]}:
            return separator
    return max(widths, key=lambda separator: widths[separator][:1])  # the first of equals; its rows are errors


def _widths(text: str, separator: str) -> list[int]:
    """Return the number of values in each of the first rows."""
    rows = csv.reader(io.StringIO(text[:_SAMPLE], newline=""), delimiter=separator)
    found = [len(row) for row in islice(rows, _LOOKED_AT + 1) if "".join(row).strip()]
    return found[:-1] if len(text) > _SAMPLE and len(found) > 1 else found  # the last one may be cut


def _rows(path: Path, text: str, separator: str) -> tuple[list[_Row], bool]:
    """Return the rows, and whether quotes count behind spaces, which is so where they could not be read otherwise."""
    failed, plain = None, []
    try:
        plain = list(_parsed(path, text, separator, spaced=False))
    except DataError as error:
        failed = error
    if re.search(f'{re.escape(separator)} +"', text):
        try:
            spaced = list(_parsed(path, text, separator, spaced=True))
        except DataError:  # then these quotes are part of values, as they are read first
            spaced = []
        if len({len(row.values) for row in spaced}) == 1 and _stripped(spaced) != _stripped(plain):
            return spaced, True
    if failed is not None:
        raise failed
    return plain, False


def _stripped(rows: Sequence[_Row]) -> list[list[str]]:
    return [[value.strip() for value in row.values] for row in rows]


def _parsed(path: Path, text: str, separator: str, spaced: bool) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced, strict=True)
    with _long_values():
        first = 1
        try:
            for values in reader:
                if values and (len(values) > 1 or values[0].strip()):
                    yield _Row(values, first, reader.line_num)
                first = reader.line_num + 1
        except csv.Error as error:
            raise _unreadable(path, text, separator, first, reader.line_num, str(error)) from error


def _unreadable(path: Path, text: str, separator: str, first: int, last: int, why: str) -> DataError:
    """Return the error for a row that begins on a line and cannot be read, naming the line where a quote opens."""
    if "field larger" in why:
        return DataError(
            f"expected values of at most {MOST_CHARACTERS} characters in {path}; one in the row that begins on line "
            f"{first} is longer. Is a quote not closed?"
        )
    row = "".join(islice(io.StringIO(text, newline=""), first - 1, None))
    opened = first + line_at(row[: _stray(row, separator)]) - 1
    if "end of data" in why:
        return DataError(
            f'expected every quote (") in {path} to be closed; the one that opens a value on line {opened} is not. '
            "Remove or close it."
        )
    return DataError(
        f'expected a value in quotes (") to end before a separator in {path}; the one that opens on line {opened} '
        f"closes on line {last}, and the value goes on. Remove a stray quote; write one within a value twice."
    )


def _stray(row: str, separator: str) -> int:
    """Return the position of the quote that opens a value which does not end at a separator."""
    end = re.escape(separator)
    quoted = re.compile(rf'"(?:[^"]++|"")*+"(?={end}|[\r\n]|$)')
    plain = re.compile(rf"[^{end}\r\n]*+")
    position = 0
    while position < len(row):
        if row[position] == '"':
            found = quoted.match(row, position)
            if found is None:
                return position
        else:
            found = plain.match(row, position)
        position = found.end() + 1 if found else len(row)
    return 0


def _header(path: Path, header: _Row) -> tuple[list[str], dict[str, int]]:
    """Return the names of the columns that have one, and their positions."""
    named = [(i, name) for i, name in enumerate(header.values) if clean(name)]
    columns = column_names((name for _, name in named), f"the header of {path}, line {header.first}")
    return columns, dict(zip(columns, (i for i, _ in named), strict=True))


def _checked(path: Path, separator: str, header: _Row, rows: Sequence[_Row]) -> tuple[list[_Row], list[int]]:
    """Return the rows with values, and the lines of those without any."""
    width, kept, left_out = len(header.values), [], []
    for row in rows:
        if not any(value.strip() for value in row.values):
            left_out.append(row.first)
        elif len(row.values) == width:
            kept.append(row)
        else:
            what = SEPARATORS.get(separator, repr(separator))
            hint = (
                f"Put a value that holds {what} into quotes, right behind a separator."
                if len(row.values) > width
                else "Put a value that holds a line break into quotes."
            )
            raise DataError(
                f"expected {width} values in each line of {path}, as in its header; line {row.first} has "
                f"{len(row.values)}. {hint}"
            )
    return kept, left_out


def _check_swallowed(path: Path, text: str, separator: str, width: int, rows: Sequence[_Row]) -> None:
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


def _check_header(path: Path, text: str, separator: str, header: _Row, rows: Sequence[_Row]) -> None:
    """Refuse a header of several lines of which those below the first read as rows."""
    if header.last > header.first:
        lines = list(io.StringIO(text, newline=""))[header.first - 1 : header.last]
        first, *alone = (line.split(separator) for line in lines)
        if len(first) > 1 and _like_rows(alone, _known(rows, len(first))):
            raise _swallowing(path, header)


def _known(rows: Sequence[_Row], width: int) -> list[Counter[str]]:
    """Count the values in each column of the rows of one line that have so many."""
    short = [row.values for row in rows if row.last == row.first and len(row.values) == width]
    return [Counter(values[i].strip() for values in short) for i in range(width)]


def _swallowing(path: Path, row: _Row) -> DataError:
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
