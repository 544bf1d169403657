"""Tables of named columns: files of rows, and the splits of a data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhello.data.dataset import Columns
from fedhello.data.names import HALF, clean, shown
from fedhello.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")
"""Suffixes of files of rows in a folder; all but Parquet may be gzipped."""


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        name: What messages call it.
        columns: Names of the columns.
        values: Returns the values of a column, one per row.
        place: Returns the name of a row in messages.
        folder: The folder of relative paths in the table.
        notes: Notes on how it is read.
        header: Whether the names are those of a first line, which may be no header.
    """

    name: str
    columns: tuple[str, ...]
    values: Callable[[str], Sequence[object]]
    place: Callable[[int], str] = lambda row: f"row {row + 1}"
    folder: Path = Path()
    notes: tuple[str, ...] = ()
    header: bool = False

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


def column_names(names: Iterable[object], where: str) -> list[str]:
    """Return names of columns without white space around them and in Unicode's form NFC.

    Args:
        names: The names as they are given.
        where: Where they stand, for messages.

    Raises:
        DataError: If a name is given twice, or is no Unicode text.
    """
    found: dict[str, None] = {}
    for given in names:
        name = clean(str(given))
        if name in found:
            raise DataError(
                f"expected columns of different names in {where}; {shown(name)} is given twice. Rename one."
            )
        if HALF.search(name):
            raise DataError(
                f"expected names of columns in {where} to be Unicode text; {shown(name)} has half a character"
            )
        found[name] = None
    return list(found)


def case_notes(name: str, columns: Sequence[str]) -> list[str]:
    """Return a note on columns whose names differ in case alone, which are different columns."""
    first: dict[str, str] = {}
    twins = [(first[low], column) for column in columns if first.setdefault(low := column.casefold(), column) != column]
    return [
        f"{name} has the columns {shown(one)} and {shown(other)}; they are told apart by case" for one, other in twins
    ]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0] or type(error).__name__
