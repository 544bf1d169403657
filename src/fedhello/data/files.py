"""Read a file of rows by its suffix."""

from pathlib import Path

from fedhello.data.delimited import read_delimited
from fedhello.data.json_rows import read_json
from fedhello.data.parquet import read_parquet
from fedhello.data.tables import Table
from fedhello.data.text_files import suffix_of


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Read JSON lines or an array, Parquet, and tables of separated values otherwise.

    Args:
        path: The file.
        encoding: Of text that has no byte order mark and is not UTF-8; None for no other.

    Raises:
        DataError: If it cannot be read or is not of its format.
        MissingExtraError: If the package for its format is not installed.
    """
    suffix = suffix_of(path)
    if suffix in (".jsonl", ".json", ".ndjson"):
        return read_json(path, encoding)
    return read_parquet(path) if suffix == ".parquet" else read_delimited(path, encoding)
