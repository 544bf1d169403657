"""Data sets of the ``datasets`` library: saved in a folder, or on the hub. No other module imports it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fedhello.data.tables import SUFFIXES, Source, Table, first_line
from fedhello.errors import DataError, MissingExtraError, OutOfReachError
from fedhello.hub import is_out_of_reach

FILES = (*SUFFIXES, ".txt", ".xlsx", ".xls", ".ods", ".zip")
"""Suffixes of names that are meant as files, also where there is none."""


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote a folder."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, ``org/name`` or ``org/name:subset``, rather than of a file's path."""
    id_, _, subset = name.partition(":")
    is_file = re.search(rf"({'|'.join(map(re.escape, FILES))})(\.gz)?$", name, re.IGNORECASE) is not None
    return re.fullmatch(r"\w[\w.-]*/[\w.-]*\w", id_) is not None and (":" not in name or bool(subset)) and not is_file


def saved_source(folder: Path) -> Source:
    """Read a folder that ``save_to_disk`` wrote.

    Raises:
        MissingExtraError: If ``datasets`` is not installed.
        DataError: If it cannot be read.
    """
    library = _library(f"the data set in {folder}")
    try:
        found = library.load_from_disk(str(folder))
    except Exception as error:  # pyarrow and datasets raise many kinds of errors for a broken folder
        raise DataError(f"expected a data set saved by datasets in {folder}; {first_line(error)}") from error
    return _source(str(folder), found)


def hub_source(name: str) -> Source:
    """Load a data set from the hub, or from the hub's cache on this machine.

    Args:
        name: ``org/name``, or ``org/name:subset`` of a data set that has several.

    Raises:
        MissingExtraError: If ``datasets`` is not installed.
        DataError: If the hub cannot be reached, or has no such data set.
    """
    library = _library(f"the data set {name} of the hub, since there is no such file or folder,")
    try:
        found = library.load_dataset(*name.split(":", 1))
    except Exception as error:  # several libraries raise network errors of different kinds
        raise (OutOfReachError if is_out_of_reach(error) else DataError)(
            f"expected the data set {name!r} on the hub, since there is no such file or folder; it could not be "
            f"loaded: {first_line(error)}. Without a network, set data.name to a file or a folder of your own."
        ) from error
    return _source(name, found)


def _library(purpose: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"{purpose} needs datasets; run: pip install 'fedhello[datasets]'") from error
    module: ModuleType = datasets
    return module


def _source(name: str, found: Any) -> Source:
    splits = found if isinstance(found, Mapping) else {"": found}
    return Source(name, {split: _reader(name, split, data) for split, data in splits.items()})


def _reader(name: str, split: str, data: Any) -> Callable[[], Table]:
    where = f"{name} ({split})" if split else name
    return lambda: Table(where, tuple(data.column_names), lambda column: _values(data, column))


def _values(data: Any, column: str) -> list[object]:
    """Return a column's values: class labels as names, and images as files."""
    import datasets

    feature = data.features[column]
    if isinstance(feature, datasets.Image):
        return list(data.cast_column(column, datasets.Image(decode=False))[column])
    values = list(data[column])
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
        return [names[c] if isinstance(c, int) and 0 <= c < len(names) else c for c in values]
    return values
