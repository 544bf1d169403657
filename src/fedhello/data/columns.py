"""Convert a table's columns to samples: every value is checked, and errors name the row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np

from fedhello.data.dataset import Columns, Input, Picture
from fedhello.data.names import HALF, MOST_SHOWN, as_name, clean, is_missing, rewritten, shown
from fedhello.data.tables import Table
from fedhello.errors import DataError
from fedhello.formatting import nearest


@dataclass(frozen=True)
class Rows:
    """The samples of one table, in its order.

    Attributes:
        inputs: n samples.
        labels: Their classes' names; of instruction data the categories.
        groups: The groups of a natural partition; empty strings without a group column.
        place: Returns the name of a sample in messages.
        notes: Notes on how the table and its names are read.
    """

    inputs: list[Input]
    labels: list[str]
    groups: list[str]
    place: Callable[[int], str]
    notes: tuple[str, ...] = ()


MOST_NAMED = 50
"""The most columns that a message lists."""
LONGEST_PATH = 200
"""The most characters of a path in a message."""

NO_CATEGORY = "all"
"""The category of instruction data without a category column, and of samples whose labels are not read."""


def read_rows(table: Table, columns: Columns, labelled: bool = True) -> Rows:
    """Read the samples of a table.

    Args:
        table: The table.
        columns: The roles of its columns.
        labelled: Whether labels are read; if not, they may be missing, and all are ``NO_CATEGORY``.

    Raises:
        DataError: If a column is missing, or a value is missing or of the wrong type.
    """
    inputs = _inputs(table, columns)
    notes: list[str] = [*table.notes]
    optional = columns.kind == "instructions" and columns.label == Columns.label
    if not labelled or (optional and columns.label not in table.columns):
        labels = [NO_CATEGORY] * len(inputs)
    else:
        labels = _names(table, columns.label, "data.label", notes)
    groups = _names(table, columns.group, "data.partition.column", notes) if columns.group else [""] * len(inputs)
    place, name = table.place, table.name  # not the table itself, which would keep all its columns in memory
    return Rows(inputs, labels, groups, lambda row: f"{place(row)} of {name}", tuple(notes))


def _inputs(table: Table, columns: Columns) -> list[Input]:
    if columns.prompt is not None and columns.response is not None:
        prompts = _rendered(table, columns.prompt, "data.prompt")
        return list(zip(prompts, _rendered(table, columns.response, "data.response"), strict=True))
    if columns.image is not None:
        return list(_pictures(table, columns.image))
    if columns.tensor is not None:
        return list(_tensors(table, columns.tensor))
    if isinstance(columns.text, str):
        return list(_texts(table, columns.text, "data.text"))
    one, other = (_texts(table, column, "data.text") for column in columns.text)
    return list(zip(one, other, strict=True))


def read_prompts(table: Table, template: str) -> list[str]:
    """Return the prompts in a table: a column, or a template that is filled in for each row.

    Raises:
        DataError: If a column is missing, or a value is missing or of the wrong type.
    """
    return _rendered(table, template, "data.prompt")


def blank_rows(table: Table, columns: Columns) -> list[int]:
    """Return the rows without an input: of pairs, those that lack a text; of instructions, those without a prompt.

    Raises:
        DataError: If a column is missing.
    """
    if columns.prompt is not None:
        pieces = _pieces(columns.prompt)
        if any(literal.strip() for literal, _ in pieces):
            return []
        found = [[_is_blank(value) for value in _column(table, name, "data.prompt")] for _, name in pieces if name]
        return [row for row, blank in enumerate(zip(*found, strict=True)) if all(blank)]
    if columns.tensor is not None:
        return [row for row, value in enumerate(_column(table, columns.tensor, "data.tensor")) if value is None]
    texts = [columns.text] if isinstance(columns.text, str) else columns.text
    names = [(columns.image, "data.image")] if columns.image is not None else [(text, "data.text") for text in texts]
    found = [[_is_blank(value) for value in _column(table, name, key)] for name, key in names]
    return [row for row, blank in enumerate(zip(*found, strict=True)) if any(blank)]


def _is_blank(value: object) -> bool:
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        return not any(value.values())
    return (
        not clean(value) if isinstance(value, str) else value == b"" if isinstance(value, bytes) else is_missing(value)
    )


def placeholders(template: str) -> list[str]:
    """Return the columns that a template names in braces; ``{{`` and ``}}`` are literal braces.

    Raises:
        ValueError: If a brace is unmatched or empty, or the template names no column.
    """
    return [column for _, column in _pieces(template) if column]


def _pieces(template: str) -> list[tuple[str, str]]:
    """Return a template as pairs of literal text and the column that follows it, or ""."""
    if "{" not in template and "}" not in template:
        return [("", template)]  # the name of a column
    pieces = []
    for literal, name, spec, conversion in Formatter().parse(template):
        column = (name or "") + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        if name is not None and not column:
            raise ValueError("a pair of braces names no column")
        pieces.append((literal, column))
    if not any(column for _, column in pieces):
        raise ValueError("it names no column, since double braces are literal braces")
    return pieces


def _rendered(table: Table, template: str, key: str) -> list[str]:
    """Fill a template in for each row; single columns may be empty, the result may not."""
    pieces = _pieces(template)
    found = {column: _column(table, column, key) for _, column in pieces if column}
    texts = {
        column: [_text(table, column, row, value) for row, value in enumerate(values)]
        for column, values in found.items()
    }
    filled = [
        "".join(literal + (texts[column][row] if column else "") for literal, column in pieces).strip()
        for row in range(len(next(iter(texts.values()))))
    ]
    return _whole(table, template, filled, [not text for text in filled])


def _texts(table: Table, column: str, key: str) -> list[str]:
    texts = [_text(table, column, row, value) for row, value in enumerate(_column(table, column, key))]
    return _whole(table, column, texts, [not clean(text) for text in texts])


def _whole(table: Table, column: str, texts: list[str], lack: list[bool]) -> list[str]:
    """Return the texts if none is lacking."""
    missing = [row for row, lacks in enumerate(lack) if lacks]
    if missing:
        raise _lacking(table, column, *missing)
    return texts


def _text(table: Table, column: str, row: int, value: object) -> str:
    if is_missing(value):
        value = ""
    if not isinstance(value, str):
        raise DataError(
            f"expected texts in the column {column!r} of {table.name}; {table.place(row)} has {_shown(value)}"
        )
    value = value.strip()
    _check_whole(table, column, row, value)
    return value


def _check_whole(table: Table, column: str, row: int, value: str) -> None:
    half = None if value.isascii() else HALF.search(value)
    if half:
        raise DataError(
            f"expected Unicode text in the column {column!r} of {table.name}; {table.place(row)} has half of a "
            f"character, U+{ord(half[0]):04X}, at {half.start() + 1}. Remove it, or write the file anew."
        )


def _names(table: Table, column: str, key: str, notes: list[str]) -> list[str]:
    """Return a column of strings or integers as names, and add to the notes if some are written otherwise."""
    given = _column(table, column, key)
    found = [as_name(value) for value in given]
    for row, name in enumerate(found):
        if name == "":
            raise DataError(
                f"expected strings or integers in the column {column!r} of {table.name}; {table.place(row)} has "
                f"{_shown(given[row])}. Convert it to class names."
            )
        if name is not None:
            _check_whole(table, column, row, name)
    missing = [row for row, name in enumerate(found) if name is None]
    if missing:
        raise _lacking(table, column, *missing)
    names = [name for name in found if name is not None]
    notes += rewritten(given, names, f"values of {column!r} in {table.name}")
    return names


def _pictures(table: Table, column: str) -> list[Picture]:
    return [_picture(table, column, row, value) for row, value in enumerate(_column(table, column, "data.image"))]


def _picture(table: Table, column: str, row: int, value: object) -> Picture:
    """Return an image from a cell: a path, the bytes of a file, a mapping with one of the two, or pixels."""
    if isinstance(value, Picture):
        return value
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    name = f"{table.place(row)} of {table.name}"
    if isinstance(value, str) and value.strip():
        _check_whole(table, column, row, value)
        path = table.folder / value.strip()
        where = str(path) if len(str(path)) <= LONGEST_PATH else f"…{str(path)[-LONGEST_PATH:]}"
        return Picture(path, f"{where} in {name}")
    if isinstance(value, bytes) and value:
        return Picture(value, name)
    if value is None or value in ("", b""):
        raise _lacking(table, column, row)
    raise DataError(f"expected paths or bytes of images in the column {column!r}; {name} has {_shown(value)}")


def _tensors(table: Table, column: str) -> list[np.ndarray]:
    """Return a column of numbers of one shape: float32, or int64 where all are integers.

    Raises:
        DataError: If a value is not a number, not finite, or of another shape or type than the first.
    """
    found: list[np.ndarray] = []
    for row, value in enumerate(_column(table, column, "data.tensor")):
        if value is None:
            raise _lacking(table, column, row)
        try:
            array = np.asarray(value)
            array = array.astype(np.int64 if array.dtype.kind in "iub" else np.float32, casting="same_kind")
        except (TypeError, ValueError) as error:
            raise DataError(
                f"expected numbers in the column {column!r} of {table.name}; {table.place(row)} has {_shown(value)}"
            ) from error
        if not np.isfinite(array).all():
            raise DataError(f"expected finite numbers in the column {column!r} of {table.name}; {table.place(row)}")
        if found and (array.shape, array.dtype) != (found[0].shape, found[0].dtype):
            raise DataError(
                f"expected numbers of one shape and type in the column {column!r} of {table.name}, as in its first "
                f"row, {found[0].shape} and {found[0].dtype}; {table.place(row)} has {array.shape} and {array.dtype}"
            )
        found.append(array)
    return found


def _column(table: Table, column: str, key: str) -> Sequence[object]:
    if column not in table.columns:
        column = clean(column)
    if column not in table.columns:
        has = "its first line names" if table.header else "it has"
        listed = [*map(shown, table.columns[:MOST_NAMED]), *(["…"] if len(table.columns) > MOST_NAMED else [])]
        raise DataError(
            f"expected a column {column!r} in {table.name} ({key}); {has} {', '.join(listed)}"
            + nearest(column, [name for name in table.columns[:MOST_NAMED] if len(name) <= MOST_SHOWN])
        )
    return table.values(column)


def _lacking(table: Table, column: str, *rows: int) -> DataError:
    more = f" ({len(rows)} rows do, up to {table.place(rows[-1])})" if len(rows) > 1 else ""
    return DataError(
        f"expected a value of {column!r} in each row of {table.name}; {table.place(rows[0])} lacks one{more}"
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits, or an object's own failure
        text = "a value that cannot be shown"
    return f"{text if len(text) <= 40 else text[:40] + '…'} ({type(value).__name__})"
