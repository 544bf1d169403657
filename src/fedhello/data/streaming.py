"""Read a file of rows in parts, in memory that does not grow with the file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from fedhello.data.delimited import stream_delimited
from fedhello.data.json_rows import read_json, stream_json_lines
from fedhello.data.parquet import stream_parquet
from fedhello.data.tables import Table
from fedhello.data.text_files import absent, exists, open_text, suffix_of
from fedhello.errors import DataError

LINES = "text"
"""The column of a text that is read line by line."""

Parts = Iterator[tuple[Table, float | None]]
"""Tables of some rows each, with the share of the file that is read; None if its size is not known."""


def stream_table(path: Path, encoding: str | None, size: int) -> Parts:
    """Yield a file of rows in parts, by its suffix as ``read_table`` does; JSON that is not one object a line is whole.

    Args:
        path: The file.
        encoding: Of text that has no byte order mark and is not UTF-8; None for no other.
        size: The most rows of a part.

    Raises:
        DataError: If it cannot be read or is not of its format.
        MissingExtraError: If the package for its format is not installed.
    """
    if not exists(path):
        raise absent(str(path), "the file")
    suffix = suffix_of(path)
    if suffix == ".parquet":
        yield from stream_parquet(path, size)
    elif suffix in (".jsonl", ".ndjson") and _is_of_lines(path, encoding):
        yield from stream_json_lines(path, encoding, size)
    elif suffix in (".json", ".jsonl", ".ndjson"):
        yield from _sliced(read_json(path, encoding), size)
    else:
        yield from stream_delimited(path, encoding, size)


def _is_of_lines(path: Path, encoding: str | None) -> bool:
    """Whether the first line with something on it looks like a whole object."""
    with open_text(path, encoding) as opened:
        first = next((line for line in opened.file if line.strip(" \t\r\n\ufeff")), "").strip(" \t\r\n\ufeff")
    return first.startswith("{") and first.endswith("}")


def _sliced(table: Table, size: int) -> Parts:
    found = {column: table.values(column) for column in table.columns}
    count = len(found[table.columns[0]])
    for first in range(0, count, size):
        part = {column: values[first : first + size] for column, values in found.items()}
        yield _slice_of(table, part, first), min(1.0, (first + size) / count)


def _slice_of(table: Table, values: dict[str, Sequence[object]], first: int) -> Table:
    notes = () if first else table.notes
    return replace(table, values=values.__getitem__, place=lambda row: table.place(first + row), notes=notes)


def stream_lines(file: TextIO, size: int, name: str = "standard input") -> Parts:
    """Yield the lines of a text that are not blank as tables of one column, ``text``.

    Args:
        file: The text.
        size: The most lines of a part.
        name: What messages call it.

    Raises:
        DataError: If it cannot be decoded.
    """
    numbered = ((i + 1, line.rstrip("\r\n")) for i, line in enumerate(file) if line.strip())
    try:
        while found := list(islice(numbered, size)):
            yield _table_of_lines(name, found), None
    except UnicodeDecodeError as error:
        raise DataError(f"expected {name} to be {error.encoding.upper()} text; {error.reason}. Convert it.") from error


def _table_of_lines(name: str, found: list[tuple[int, str]]) -> Table:
    lines = [line for _, line in found]
    return replace(Table.of(name, {LINES: lines}), place=lambda row: f"line {found[row][0]}")
