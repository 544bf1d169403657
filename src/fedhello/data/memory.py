"""Data sets in memory: rows, columns, and objects with a length and items."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedhello.data.dataset import Columns, HeldOut, Picture
from fedhello.data.pictures import pixels_of
from fedhello.data.tables import Source, Table, case_notes, column_names, first_line
from fedhello.errors import DataError

MEMORY = "memory"
"""The value of ``data.name`` and ``model.name`` for objects in memory."""


def memory_source(data: Any, columns: Columns, held_out: Mapping[HeldOut, Any]) -> Source:
    """Return the source of data sets in memory.

    Args:
        data: One data set, or a list of them, one per client; see ``is_per_client``. A data set is a sequence of rows
            (mappings, or pairs of input and label), a mapping of columns, or anything with a length and such items,
            as ``datasets.Dataset``, ``torch.utils.data.Dataset`` and, by its columns, a pandas table are.
        columns: The roles of their columns.
        held_out: The server's validation or test data, in the same forms.

    Raises:
        DataError: If a data set is empty, or an object is not a data set.
    """
    per_client = is_per_client(data)
    clients = data if per_client else [data]
    digits = len(str(len(clients)))
    names = [f"client-{k:0{digits}}" if per_client else "" for k in range(len(clients))]
    given = dict(zip(names, clients, strict=True)) | dict(held_out)
    for name, one in given.items():
        _check(f"the data of {name}" if name else "the data", one)
    tables = {
        name: partial(_table, f"the data of {name}" if name else "the data", one, columns)
        for name, one in given.items()
    }
    return Source("the data", tables, files=per_client)


def is_per_client(data: Any) -> bool:
    """Whether an object is a list of data sets, one per client, and not a list of rows.

    A row is a pair, or a mapping with a value that is not a sequence, such as its label; a mapping of columns holds
    only sequences.
    """
    if not isinstance(data, (list, tuple)) or not data:
        return False
    first = data[0]
    if isinstance(first, Mapping):
        return bool(first) and all(map(_is_column, first.values()))
    return not (isinstance(first, tuple) and len(first) == 2 and not isinstance(first[0], Mapping))


def _is_column(value: object) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0 and not isinstance(value, (str, bytes, Mapping))


def _check(name: str, data: Any) -> None:
    """Check that an object can be a data set and is not empty."""
    if isinstance(data, (str, bytes)) or not hasattr(data, "__len__"):
        raise DataError(
            f"expected {name} to have a length and items, like a list of rows, a mapping of columns, or a data set of "
            f"torch or datasets; found a {type(data).__name__}. Convert it to a list."
        )
    if len(data) == 0 or (isinstance(data, Mapping) and not all(len(values) for values in data.values())):
        raise DataError(f"expected at least one sample in {name}; it is empty")


def _table(name: str, data: Any, columns: Columns) -> Table:
    """Read a data set in memory."""
    if hasattr(data, "to_pydict"):  # pyarrow
        data = data.to_pydict()
    if isinstance(data, Mapping):
        scalar = next((key for key, values in data.items() if not _is_column(values)), None)
        if scalar is not None:
            raise DataError(
                f"expected a sequence of values for each column of {name}; that of {scalar!r} is a "
                f"{type(data[scalar]).__name__}"
            )
        return _of_columns(
            name, dict(zip(column_names(data, name), map(list, data.values()), strict=True)), columns.tensor
        )
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # pandas, polars
        given = [
            data.iloc[:, i].tolist() if hasattr(data, "iloc") else list(data[c]) for i, c in enumerate(data.columns)
        ]
        return _of_columns(name, dict(zip(column_names(data.columns, name), given, strict=True)), columns.tensor)
    rows = [_row(_item(data, i, name), columns, f"row {i + 1} of {name}") for i in range(len(data))]
    for column, classes in _class_names(data).items():
        for row in rows:
            row[column] = _class_name(classes, row[column])
    found = dict.fromkeys(key for row in rows for key in row)
    return _of_columns(name, {key: [row.get(key) for row in rows] for key in found}, columns.tensor)


def _class_names(data: Any) -> dict[str, list[str]]:
    """Return the columns of a ``datasets.Dataset`` with class numbers, and the classes' names."""
    features = getattr(data, "features", None)
    found = features.items() if isinstance(features, Mapping) else ()
    return {column: feature.names for column, feature in found if hasattr(feature, "int2str")}


def _class_name(classes: Sequence[str], value: Any) -> object:
    value = plain_value(value, "")
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value


def _of_columns(name: str, columns: Mapping[str, Sequence[object]], tensor: str | None) -> Table:
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise DataError(f"expected columns of one length in {name}; found {said}")
    read = {
        key: values if key == tensor else [plain_value(v, f"row {i + 1} of {name}") for i, v in enumerate(values)]
        for key, values in columns.items()
    }
    return replace(Table.of(name, read), notes=tuple(case_notes(name, [*read])))


def _item(data: Any, i: int, name: str) -> Any:
    try:
        return data[i]
    except Exception as error:  # a data set's own code may raise anything
        raise DataError(
            f"expected row {i + 1} of {name}, which has {len(data)}; reading it raises {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _row(item: Any, columns: Columns, place: str) -> dict[str, object]:
    if isinstance(item, Mapping):
        return dict(zip(column_names(item, place), item.values(), strict=True))
    if isinstance(item, (tuple, list)) and len(item) == 2:
        key = columns.image or columns.tensor or (columns.text if isinstance(columns.text, str) else None)
        if key is not None:
            return {key: item[0], columns.label: item[1]}
    raise DataError(
        f"expected a mapping of columns, or a pair of input and label, in {place}; found a {type(item).__name__}"
    )


def plain_value(value: Any, place: str) -> object:
    """Return a value in the form of tables: images as pixels, numpy and torch numbers as Python numbers."""
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # Pillow
        name = f"the image in {place}"
        return Picture(pixels_of(value, name), name)
    if getattr(value, "ndim", 0) > 0 and hasattr(value, "dtype"):
        return _pixels(value, place)
    item = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "ndim", None) == 0 else value


def _pixels(value: Any, place: str) -> Picture:
    pixels = np.asarray(value)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise DataError(
            f"expected an image of uint8 values, shape (H, W) or (H, W, 3), in {place}; found {pixels.dtype} of shape "
            f"{tuple(pixels.shape)}. Undo normalisation and move the channels to the end: the model's own image "
            "processor does the rest. For the input of a plain module, name the column in data.tensor instead."
        )
    return Picture(np.ascontiguousarray(pixels), f"the image in {place}")
