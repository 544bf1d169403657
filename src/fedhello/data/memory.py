"""Data sets that a program has in memory: rows, columns, and whatever has a length and items."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedhello.data.dataset import Columns, HeldOut, Picture
from fedhello.data.tables import Source, Table
from fedhello.errors import DataError

MEMORY = "memory"
"""What ``data.name`` and ``model.name`` are where a program hands over objects."""


def memory_source(
    data: Any, columns: Columns, held_out: Mapping[HeldOut, Any], per_client: bool
) -> tuple[Source, int | None]:
    """Make a source of objects.

    Args:
        data: One data set; or, with ``per_client``, a sequence of one per client. A data set is a sequence of rows (
            mappings, or pairs of input and label), a mapping of columns, or anything with a length and such items,
            as ``datasets.Dataset``, ``torch.utils.data.Dataset`` and, by its columns, a pandas table are.
        columns: What their columns are for.
        held_out: What the server keeps for validation or test, in the same forms.
        per_client: Whether each is one client's.

    Returns:
        The source, and the number of clients where it says so.

    Raises:
        DataError: If there is no client, or rows have no columns.
    """
    clients = list(data) if per_client else [data]
    if not clients:
        raise DataError("expected the data of at least one client; found none")
    digits = len(str(len(clients)))
    names = [f"client-{k:0{digits}}" if per_client else "" for k in range(len(clients))]
    splits = dict(zip(names, clients, strict=True)) | dict(held_out)
    tables = {
        name: partial(_table, f"the data of {name}" if name else "the data", one, columns)
        for name, one in splits.items()
    }
    return Source("the data", tables, files=per_client), len(clients) if per_client else None


def is_per_client(data: Any) -> bool:
    """Whether data in memory are a list of data sets, one per client, rather than a list of rows."""
    if not isinstance(data, (list, tuple)) or not data:
        return False
    first = data[0]
    if isinstance(first, Mapping):  # a row holds values, a mapping of columns holds lists of them
        return bool(first) and all(_is_column(value) for value in first.values())
    return not (isinstance(first, tuple) and len(first) == 2 and not hasattr(first[0], "keys"))


def _is_column(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and not (isinstance(value, np.ndarray) and value.ndim > 1)


def _table(name: str, data: Any, columns: Columns) -> Table:
    """Read a data set in memory."""
    by_column = getattr(data, "to_dict", None)
    if isinstance(data, Mapping):
        return _of_columns(name, {key: list(values) for key, values in data.items()})
    if by_column is not None and hasattr(data, "columns"):  # pandas
        return _of_columns(name, {str(key): data[key].tolist() for key in data.columns})
    rows = [_row(data[i], columns, f"row {i + 1} of {name}") for i in range(len(data))]
    found = dict.fromkeys(key for row in rows for key in row)
    return _of_columns(name, {key: [row.get(key) for row in rows] for key in found})


def _of_columns(name: str, columns: Mapping[str, Sequence[object]]) -> Table:
    return Table.of(name, {key: [_value(value, name) for value in values] for key, values in columns.items()})


def _row(item: Any, columns: Columns, place: str) -> dict[str, object]:
    if isinstance(item, Mapping):
        return {str(key): value for key, value in item.items()}
    if isinstance(item, (tuple, list)) and len(item) == 2:
        key = columns.image or (columns.text if isinstance(columns.text, str) else None)
        if key is not None:
            return {key: item[0], columns.label: item[1]}
    raise DataError(
        f"expected a mapping of columns, or a pair of input and label, in {place}; found a {type(item).__name__}"
    )


def _value(value: Any, name: str) -> object:
    """Return a value as tables hold them: images as pixels, numbers of numpy and torch as Python's."""
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # Pillow
        value = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return Picture(np.ascontiguousarray(value), f"an image of {name}") if value.dtype == np.uint8 else value
    item = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "ndim", None) == 0 else value
