"""Read Parquet files, column by column."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fedhello.data.tables import Table, case_notes, column_names, first_line
from fedhello.data.text_files import check_regular
from fedhello.errors import DataError, MissingExtraError


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; its columns are read when they are asked for.

    Raises:
        DataError: If it cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"reading {path} needs pyarrow; run: pip install 'fedhello[parquet]'") from error
    check_regular(path)
    with _opened(path) as file:
        names: list[str] = list(pyarrow.parquet.ParquetFile(file).schema_arrow.names)
    columns = column_names(names, str(path))
    position = dict(zip(columns, range(len(columns)), strict=True))

    def values(column: str) -> list[Any]:
        with _opened(path) as file:
            name = names[position[column]]  # with a dot, it may mean a part of another column as well
            found = pyarrow.parquet.ParquetFile(file).read(columns=[name]).column(name)
        return _as_python(path, column, found)

    return Table(str(path), tuple(columns), values, folder=path.parent, notes=tuple(case_notes(str(path), columns)))


def stream_parquet(path: Path, size: int) -> Iterator[tuple[Table, float]]:
    """Yield a Parquet file in parts, in memory that does not grow with the file.

    Args:
        path: The file.
        size: The most rows of a part.

    Yields:
        A table of some rows, and the share of the rows that are read.

    Raises:
        DataError: If it cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    whole, done = read_parquet(path), 0  # checks the file and the names
    with _opened(path) as file:
        import pyarrow.parquet

        opened = pyarrow.parquet.ParquetFile(file)
        rows = max(1, opened.metadata.num_rows)
        for batch in opened.iter_batches(batch_size=size):
            found = {
                column: _as_python(path, column, values)
                for column, values in zip(whole.columns, batch.columns, strict=True)
            }
            yield _part(whole, found, done), (done + batch.num_rows) / rows
            done += batch.num_rows


def _part(whole: Table, found: dict[str, list[Any]], done: int) -> Table:
    return replace(
        whole,
        values=found.__getitem__,
        place=lambda row: f"row {done + row + 1}",
        notes=() if done else whole.notes,
    )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except Exception as error:  # a damaged file leads to errors of any kind
        raise DataError(f"expected {path} to be a Parquet file; {first_line(error)}") from error


def _as_python(path: Path, column: str, found: Any) -> list[Any]:
    """Return the values of a column; an error names the row that has none in Python, such as bytes that are no text."""
    try:
        return list(found.to_pylist())
    except Exception:  # any kind, again; the values are converted one by one to find the row
        values = []
        for row, value in enumerate(found):
            try:
                values.append(value.as_py())
            except Exception as error:
                raise DataError(
                    f"expected values that can be read in the column {column!r} of {path}; row {row + 1}: "
                    f"{first_line(error)}"
                ) from error
        return values
