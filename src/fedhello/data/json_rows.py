"""Read rows of JSON: one object after the other, as in JSON lines, or an array of objects."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fedhello.data.names import clean, shown
from fedhello.data.tables import Table, case_notes, column_names
from fedhello.data.text_files import line_at, open_text, read_text
from fedhello.errors import DataError

EXAMPLE = '{"text": "a red rose", "label": "plant"}'
"""A row, for messages."""

_SPACE = re.compile(r"[ \t\r\n]*")


class _TwiceError(ValueError):
    """A key is given twice in one object."""


def read_json(path: Path, encoding: str | None = None) -> Table:
    """Read a file of JSON objects: lines, an array, or one object that holds a single array of them.

    Args:
        path: The file.
        encoding: See ``read_text``.

    Raises:
        DataError: If it cannot be read, or is not of this form.
    """
    text, notes = read_text(path, encoding)
    text = text.removeprefix("\ufeff")
    begin = _after_space(text, 0)
    array = text.startswith("[", begin)
    if array:
        notes.append(f"{path} is read as one JSON array")
    found = list(_elements(path, text, begin + 1) if array else _values(path, text, begin))
    places = [f"line {line}" for line, _ in found]
    values = [value for _, value in found]
    if not array and len(values) == 1:
        key, inner = _wrapped(path, values[0])
        if key is not None:
            notes.append(f"{path} is read as the array {shown(key)} of one JSON object")
            values, places = inner, [f"row {i + 1}" for i in range(len(inner))]
    if not values:
        raise DataError(f"expected JSON objects in {path}, one per line or in an array; it is empty")
    rows = _rows(path, values, places)
    columns = column_names(dict.fromkeys(name for row in rows for name in row), str(path))
    if not columns:
        raise DataError(
            f"expected JSON objects with keys in {path}; none of its {len(rows)} has any. "
            f"Write each sample as {EXAMPLE}."
        )
    return _part(path, columns, rows, places, [*notes, *case_notes(str(path), columns)])


def stream_json_lines(path: Path, encoding: str | None, size: int) -> Iterator[tuple[Table, float]]:
    """Yield a file of one JSON object a line in parts, in memory that does not grow with the file.

    Args:
        path: The file.
        encoding: See ``read_text``.
        size: The most rows of a part.

    Yields:
        A table of some rows, and the share of the file that is read.

    Raises:
        DataError: If it cannot be read, or a line holds no object.
    """
    with open_text(path, encoding) as opened:
        numbered = ((i + 1, line) for i, line in enumerate(opened.file) if line.strip(" \t\r\n\ufeff"))
        notes = opened.notes
        while lines := list(islice(numbered, size)):
            places = [f"line {number}" for number, _ in lines]
            rows = _rows(path, [_of_line(path, number, line) for number, line in lines], places)
            columns = column_names(dict.fromkeys(name for row in rows for name in row), str(path))
            notes = [*notes, *case_notes(str(path), columns)]
            yield _part(path, columns, rows, places, notes), opened.share()
            notes = []


def _part(path: Path, columns: list[str], rows: list[dict[str, Any]], places: list[str], notes: list[str]) -> Table:
    return Table(
        name=str(path),
        columns=tuple(columns),
        values=lambda column: [row.get(column) for row in rows],
        place=places.__getitem__,
        folder=path.parent,
        notes=tuple(notes),
    )


def _of_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line.removeprefix("\ufeff"), object_pairs_hook=_once)
    except _TwiceError as error:
        why = f"it gives the key {error} twice in one object. Rename one"
    except RecursionError:
        why = "it is nested too deep. Write it flat"
    except ValueError as error:
        why = (
            f"{getattr(error, 'msg', 'a number of thousands of digits')}. Write each row as {EXAMPLE}, on its own line"
        )
    raise DataError(f"expected a JSON object on each line of {path}; line {number}: {why}.")


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _values(path: Path, text: str, position: int) -> Iterator[tuple[int, Any]]:
    """Yield the values that follow each other, with the lines that they begin on."""
    reader, line, counted = _Reader(path, text, "on a line of its own, without commas between rows"), 1, 0
    while position < len(text):
        line, counted = line + line_at(text[counted:position]) - 1, position
        value, position = reader.read(position, line)
        yield line, value
        position = _after_space(text, position)


def _elements(path: Path, text: str, position: int) -> Iterator[tuple[int, Any]]:
    """Yield the elements of an array, with the lines that they begin on."""
    reader, line, counted, first = _Reader(path, text, "with one comma between rows"), 1, 0, True
    while True:
        position = _after_space(text, position)
        line, counted = line + line_at(text[counted:position]) - 1, position
        if first and text.startswith("]", position):
            break
        value, position = reader.read(position, line)
        yield line, value
        first = False
        position = _after_space(text, position)
        if not text.startswith(",", position):
            break
        position += 1
    if not text.startswith("]", position):
        where = f"line {line_at(text[:position])}" if position < len(text) else "the end of the file"
        raise DataError(f"expected the JSON array in {path} to go on with , or to end with ]; {where} has neither")
    rest = _after_space(text, position + 1)
    if rest < len(text):
        raise DataError(f"expected one JSON array in {path}; more follows its end on line {line_at(text[:rest])}")


class _Reader:
    """Reads one value of a text; any failure names the line."""

    def __init__(self, path: Path, text: str, between: str) -> None:
        self._path, self._text, self._between = path, text, between
        self._decoder = json.JSONDecoder(object_pairs_hook=_once)

    def read(self, position: int, line: int) -> tuple[Any, int]:
        """Return the value that begins at a position, and where it ends."""
        try:
            return self._decoder.raw_decode(self._text, position)
        except json.JSONDecodeError as error:
            at = line_at(self._text[: error.pos])
            where = f"line {at}" if at == line else f"line {at}, in what begins on line {line}"
            what = f"{where}: {error.msg}. Write each row as {EXAMPLE}, {self._between}"
        except _TwiceError as error:
            what = f"line {line} gives the key {error} twice in one object. Rename one"
        except ValueError:  # Python converts at most so many digits, so that nobody has it compute for hours
            what = f"line {line} has a number of thousands of digits. Write it as a string"
        except RecursionError:
            what = f"line {line} is nested too deep. Write it flat"
        raise DataError(f"expected JSON objects in {self._path}, one per line or in an array; {what}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(shown(next(name for i, name in enumerate(names) if name in names[:i])))
    return found


def _wrapped(path: Path, value: Any) -> tuple[str | None, list[Any]]:
    """Return the key and the rows of an object that is not a row itself but holds an array of rows."""
    if not isinstance(value, dict) or not value:
        return None, []
    arrays = [key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    if len(arrays) == 1 and not any(isinstance(value[key], (list, dict)) for key in value if key != arrays[0]):
        return arrays[0], value[arrays[0]]
    if all(isinstance(inner, (list, dict)) for inner in value.values()):
        raise DataError(
            f"expected JSON objects in {path}, one per line or in an array; it is one object of "
            f"{', '.join(map(shown, list(value)[:5]))}, each with many values. Write one object per row (in pandas "
            'to_json(orient="records", lines=True)), and a file for each split.'
        )
    return None, []


def _rows(path: Path, values: list[Any], places: list[str]) -> list[dict[str, Any]]:
    """Return the objects with clean names of columns."""
    cleaned: dict[str, str] = {}
    rows = []
    for value, place in zip(values, places, strict=True):
        if not isinstance(value, dict):
            raise DataError(
                f"expected JSON objects in {path}, one per line or in an array; {place} holds {type(value).__name__}"
            )
        row = {cleaned.setdefault(key, clean(key)): inner for key, inner in value.items()}
        if len(row) < len(value):
            column_names(value, f"{place} of {path}")
        rows.append(row)
    return rows
