"""Read tables of separated values (CSV, TSV and their kin): the separator is found, and no row is swallowed."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TextIO

from fedhello.data.names import clean
from fedhello.data.stray_quotes import Row, check_header, check_swallowed
from fedhello.data.tables import Table, case_notes, column_names
from fedhello.data.text_files import line_at, open_text, read_text, suffix_of
from fedhello.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""The separators that are looked for, in words."""

MOST_CHARACTERS = 10_000_000
"""The most characters of a value."""

_LOOKED_AT = 50
_SAMPLE = 2**20

_limit = Lock()


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
    check_header(path, text, separator, header, found)
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
    check_swallowed(path, text, separator, len(header.values), kept)
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


def stream_delimited(path: Path, encoding: str | None, size: int) -> Iterator[tuple[Table, float]]:
    """Yield a file of separated values in parts, in memory that does not grow with the file.

    Separator and quotes behind spaces are told by the first megabyte, and lines that a stray quote swallows by the rows
    of their part.

    Args:
        path: The file.
        encoding: See ``read_text``.
        size: The most rows of a part.

    Yields:
        A table of some rows, and the share of the file that is read.

    Raises:
        DataError: As ``read_delimited``.
    """
    with open_text(path, encoding) as opened:
        begin = opened.file.read(_SAMPLE)
        how = _dialect(path, begin)
        lines = _Lines(begin, opened.file, how.skipped)
        rows = _read_rows(path, lines, how)
        header = next(rows, None)
        if header is None:
            raise DataError(f"expected a header line, then samples, in {path}; it is empty")
        columns, position = _header(path, header)
        notes = [*opened.notes, *case_notes(str(path), columns)]
        while found := list(islice(rows, size)):
            kept, left_out = _checked(path, how.separator, header, found)
            _check_part(path, lines, how.separator, header, kept)
            if left_out:
                notes.append(f"{len(left_out)} lines of {path} hold only separators, such as line {left_out[0]}")
            yield _part(path, columns, position, kept, notes), opened.share()
            lines.forget()
            notes = []


class _Dialect(NamedTuple):
    """The separator, whether quotes count behind spaces, and the lines before the header."""

    separator: str
    spaced: bool
    skipped: int


def _dialect(path: Path, begin: str) -> _Dialect:
    """Return how a file is read, told by its first part."""
    named = re.match(r"sep=(.)(?:\r\n|\n|\r)", begin)
    if named:
        return _Dialect(named[1], spaced=False, skipped=1)
    _refuse_json(path, begin)
    with _long_values():
        separator = _separator(begin, "\t" if suffix_of(path) == ".tsv" else ",")
    whole = begin[: max(begin.rfind("\n"), begin.rfind("\r")) + 1] or begin
    try:
        return _Dialect(separator, _rows(path, whole, separator)[1], skipped=0)
    except DataError:  # the last row may be cut; what is wrong is said when it is read
        return _Dialect(separator, spaced=False, skipped=0)


def _check_part(path: Path, lines: "_Lines", separator: str, header: Row, rows: Sequence[Row]) -> None:
    """Refuse what a stray quote swallows, in the lines since the last part."""
    text, before = "".join(lines.taken), lines.before
    if header.first > before:
        here = header._replace(first=header.first - before, last=header.last - before)
        check_header(path, text, separator, here, rows)
    relative = [row._replace(first=row.first - before, last=row.last - before) for row in rows]
    check_swallowed(path, text, separator, len(header.values), relative)


def _part(
    path: Path, columns: Sequence[str], position: Mapping[str, int], rows: Sequence[Row], notes: Sequence[str]
) -> Table:
    return Table(
        name=str(path),
        columns=tuple(columns),
        values=lambda column: [row.values[position[column]] for row in rows],
        place=lambda row: f"line {rows[row].first}",
        folder=path.parent,
        notes=tuple(notes),
        header=True,
    )


class _Lines:
    """The lines of a text that has been read in part; those since ``forget`` was called are kept.

    Attributes:
        taken: The lines that are kept.
        before: The number of lines before these.
    """

    def __init__(self, begin: str, file: TextIO, skipped: int) -> None:
        cut = begin + file.readline() if begin and not begin.endswith("\n") else begin
        self._lines = chain(io.StringIO(cut, newline=""), file)
        self.taken: list[str] = []
        self.before = skipped
        for _ in range(skipped):
            next(self._lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        return line

    def forget(self) -> None:
        self.before += len(self.taken)
        self.taken = []


def _read_rows(path: Path, lines: _Lines, how: _Dialect) -> Iterator[Row]:
    """Yield the rows that follow, with the lines that they begin and end on."""
    reader = csv.reader(lines, delimiter=how.separator, skipinitialspace=how.spaced, strict=True)
    while True:
        first = lines.before + len(lines.taken) + 1
        with _long_values():
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                text, last = "".join(lines.taken), lines.before + len(lines.taken)
                raise _unreadable(path, text, how.separator, first, last, str(error), lines.before) from error
        if values and (len(values) > 1 or values[0].strip()):
            yield Row(values, first, lines.before + len(lines.taken))


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


def _rows(path: Path, text: str, separator: str) -> tuple[list[Row], bool]:
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


def _stripped(rows: Sequence[Row]) -> list[list[str]]:
    return [[value.strip() for value in row.values] for row in rows]


def _parsed(path: Path, text: str, separator: str, spaced: bool) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced, strict=True)
    with _long_values():
        first = 1
        try:
            for values in reader:
                if values and (len(values) > 1 or values[0].strip()):
                    yield Row(values, first, reader.line_num)
                first = reader.line_num + 1
        except csv.Error as error:
            raise _unreadable(path, text, separator, first, reader.line_num, str(error)) from error


def _unreadable(path: Path, text: str, separator: str, first: int, last: int, why: str, before: int = 0) -> DataError:
    """Return the error for a row that begins on a line and cannot be read, naming the line where a quote opens.

    The text begins after ``before`` lines of the file.
    """
    if "field larger" in why:
        return DataError(
            f"expected values of at most {MOST_CHARACTERS} characters in {path}; one in the row that begins on line "
            f"{first} is longer. Is a quote not closed?"
        )
    row = "".join(islice(io.StringIO(text, newline=""), first - before - 1, None))
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


def _header(path: Path, header: Row) -> tuple[list[str], dict[str, int]]:
    """Return the names of the columns that have one, and their positions."""
    named = [(i, name) for i, name in enumerate(header.values) if clean(name)]
    columns = column_names((name for _, name in named), f"the header of {path}, line {header.first}")
    return columns, dict(zip(columns, (i for i, _ in named), strict=True))


def _checked(path: Path, separator: str, header: Row, rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
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
