"""Tables of named columns: files of rows, and the splits of a data set."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhello.data.dataset import Columns
from fedhello.errors import DataError, MissingExtraError


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        name: What messages call it.
        columns: Names of the columns.
        values: Returns the values of a column, one per row.
        place: Returns the name of a row in messages.
        folder: The folder of relative paths in the table.
    """

    name: str
    columns: tuple[str, ...]
    values: Callable[[str], Sequence[object]]
    place: Callable[[int], str] = lambda row: f"row {row + 1}"
    folder: Path = Path()

    @classmethod
    def of(cls, name: str, columns: Mapping[str, Sequence[object]]) -> "Table":
        """Return a table of columns in memory."""
        return cls(name, tuple(columns), columns.__getitem__)


@dataclass(frozen=True)
class Source:
    """A data set as it is stored.

    Attributes:
        name: What messages call it.
        splits: Name → reader of each table; a single table without a name is called "".
        columns: The columns that it defines itself; None if the user must name them.
        files: Whether the splits are the data files of a folder.
    """

    name: str
    splits: Mapping[str, Callable[[], Table]]
    columns: Columns | None = None
    files: bool = False


def read_table(path: Path) -> Table:
    """Read a file of rows by its suffix: JSON lines, Parquet, and CSV otherwise.

    Raises:
        DataError: If it cannot be read or is not of its format.
        MissingExtraError: If the package for its format is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        return _jsonl(path)
    return _parquet(path) if suffix == ".parquet" else _csv(path)


SUFFIXES = (".csv", ".jsonl", ".json", ".ndjson", ".parquet")
"""Suffixes of files of rows in a folder."""


def _csv(path: Path) -> Table:
    reader = csv.reader(io.StringIO(_read(path), newline=""))
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = next(reader, [])
        if not header:
            raise DataError(f"expected a header line, then samples, in {path}; its first line is empty")
        for row in reader:
            if len(row) > len(header):
                raise DataError(
                    f"expected {len(header)} values in each line of {path}, as in its header; line {reader.line_num} "
                    f"has {len(row)}. Put a value that holds commas into quotes."
                )
            if row:
                rows.append(row + [""] * (len(header) - len(row)))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"expected {path} to be a CSV file; {error}") from error
    position = {name: i for i, name in enumerate(header)}
    return Table(
        name=str(path),
        columns=tuple(header),
        values=lambda column: [row[position[column]] for row in rows],
        place=lambda row: f"line {lines[row]}",
        folder=path.parent,
    )


def _jsonl(path: Path) -> Table:
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"expected one JSON object per line in {path}; line {number}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"expected one JSON object per line in {path}; line {number} holds {type(row).__name__}")
        rows.append(row)
        lines.append(number)
    if not rows:
        raise DataError(f"expected one JSON object per line in {path}; it is empty")
    return Table(
        name=str(path),
        columns=tuple(dict.fromkeys(name for row in rows for name in row)),
        values=lambda column: [row.get(column) for row in rows],
        place=lambda row: f"line {lines[row]}",
        folder=path.parent,
    )


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"reading {path} needs pyarrow; run: pip install 'fedhello[parquet]'") from error
    try:
        names = pyarrow.parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"expected {path} to be a Parquet file; {first_line(error)}") from error

    def values(column: str) -> list[object]:
        try:
            found: list[object] = pyarrow.parquet.read_table(path, columns=[column]).column(column).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"expected {path} to be a Parquet file; {first_line(error)}") from error
        return found

    return Table(str(path), tuple(names), values, folder=path.parent)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"expected {path} to be UTF-8 text; byte {error.start} is not") from error
    except OSError as error:
        raise DataError(
            f"expected a file, a folder or an embedded data set as data.name; {path} cannot be read: {error.strerror}"
        ) from error
