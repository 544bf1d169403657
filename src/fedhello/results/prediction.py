"""Predictions, and predictions for all rows of a file, whose number the memory does not grow with."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TextIO

from fedhello.config.units import check_encoding
from fedhello.data.columns import blank_rows, read_prompts, read_rows
from fedhello.data.dataset import Columns, Input, Kind
from fedhello.data.streaming import LINES, Parts, stream_lines, stream_table
from fedhello.data.tables import Table
from fedhello.errors import ConfigError, DataError, RunFolderError
from fedhello.formatting import spreadsheet_safe, write_csv
from fedhello.results.inference import MOST_AT_ONCE, PART, added_up, infer_part, input_kind, renamed, run_columns
from fedhello.results.trained import Trained
from fedhello.runs.files import check_path, sync_folder, writing

Told = Callable[[int, float | None], None]
"""Function that is called with the number of rows so far, and the share of the file; None if that is not known."""

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Suffixes of files that predictions are written to."""

NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
"""A number in a table of texts, which is written as it is."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one input.

    Attributes:
        input: The input.
        label: The class with the largest probability; None for a language model.
        probability: The probability of that class, 0 … 1; None for a language model.
        probabilities: Label → probability, if requested.
        top: Label → probability of the likeliest classes, the likeliest first, if requested.
        answer: The answer of a language model; None for a classifier.

    Example:
        >>> one = fh.run("my.yaml").predict(["apple number 3"], probabilities=True)[0]
        >>> one.input, sorted(one.probabilities), 0.5 <= one.probability <= 1
        ('apple number 3', ['fruit', 'metal'], True)
    """

    input: Any
    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None
    top: Mapping[str, float] | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Wanted:
    """How a file is predicted.

    Attributes:
        columns: Role of a column → its name, if it differs from the run's.
        encoding: Of tables that are not UTF-8; None takes that of the run.
        probabilities: Whether to write the probabilities of all classes.
        top: The number of likeliest classes that are written; None for the likeliest alone.
        json_lines: Whether an open text gets JSON lines instead of CSV.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    encoding: str | None = None
    probabilities: bool = False
    top: int | None = None
    json_lines: bool = False


def predict_rows(
    trained: Trained, file: Path | TextIO, out: Path | TextIO, wanted: Wanted, told: Told | None = None
) -> tuple[int, list[str]]:
    """Write the rows of a file with a prediction for each, part by part.

    Args:
        trained: The model, with the run's configuration and classes.
        file: A table, or a text of which each line is an input.
        out: A new file, which appears completely or not at all; or an open text.
        wanted: How it is predicted.
        told: Called after each part.

    Returns:
        The number of rows, and notes on them; rows without an input are written without a prediction, and counted.

    Raises:
        ConfigError: If a column's role is not known, or ``out`` has no known format.
        DataError: If the file cannot be read, or no row has an input for the model.
        RunFolderError: If ``out`` exists or cannot be written.
    """
    kind = input_kind(trained.config, trained.model)
    columns = _columns(trained, kind, wanted.columns, of_lines=not isinstance(file, Path))
    parts = _parts(file, wanted.encoding or trained.config.data.encoding, PART.get(kind, MOST_AT_ONCE))
    rows, lacking, notes = 0, 0, list[str]()
    with _written(out) as opened:
        writer = _writer(opened, out, wanted.json_lines)
        for table, share in parts:
            cells, blank, more = _predicted(trained, table, columns, kind, wanted)
            writer.write(table, cells)
            rows, lacking = rows + len(cells), lacking + blank
            notes = added_up([*notes, *table.notes, *more], rows)
            if told is not None:
                told(rows, share)
        if lacking == rows:
            where = file if isinstance(file, Path) else "the input"
            raise DataError(
                f"expected rows to predict in {where}; found {f'{rows} without an input alone' if rows else 'none'}"
            )
    return rows, notes


def _predicted(
    trained: Trained, table: Table, columns: Columns, kind: Kind, wanted: Wanted
) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Return more cells for each row of a table, the number of rows without an input, and notes."""
    blank = set(blank_rows(table, columns))
    cells = [dict.fromkeys(_cells(_lacking(trained, kind, wanted)))] * len(table.values(table.columns[0]))
    kept = [row for row in range(len(cells)) if row not in blank]
    if not kept:
        return cells, len(blank), _said(blank, cells)
    some = _taken(table, kept) if blank else table
    found, notes = infer_part(
        trained.config,
        trained.labels,
        trained.model,
        _inputs(some, columns, kind),
        _place_in(some),
        wanted.probabilities,
        wanted.top,
    )
    for row, one in zip(kept, found, strict=True):
        cells[row] = _cells(one)
    return cells, len(blank), [*_said(blank, cells), *notes]


def _said(blank: Sized, rows: Sized) -> list[str]:
    return [f"{len(blank)} of {len(rows)} rows lack an input, and are written without a prediction"] if blank else []


def _lacking(trained: Trained, kind: Kind, wanted: Wanted) -> dict[str, Any]:
    """Return what stands in for the prediction of a row without an input."""
    if kind == "instructions":
        return {"answer": None}
    top, p = dict.fromkeys(trained.labels[: wanted.top or 0]), dict.fromkeys(trained.labels)
    return {"label": None, "probability": None, "top": top, "probabilities": p if wanted.probabilities else {}}


def _taken(table: Table, rows: Sequence[int]) -> Table:
    """Return some rows of a table, which keep their places."""

    def values(column: str) -> list[object]:
        found = table.values(column)
        return [found[row] for row in rows]

    return replace(table, values=values, place=lambda row: table.place(rows[row]))


def _parts(file: Path | TextIO, encoding: str | None, size: int) -> Parts:
    check_encoding(encoding)
    return stream_table(file, encoding, size) if isinstance(file, Path) else stream_lines(file, size)


def _columns(trained: Trained, kind: Kind, names: Mapping[str, Any], of_lines: bool) -> Columns:
    """Return the columns of the inputs."""
    if not of_lines:
        found = renamed(run_columns(trained.config.data, trained.model), names)
        return replace(found, group=None, prompt=(found.prompt or LINES) if kind == "instructions" else None)
    if names or kind not in ("texts", "instructions", "images"):
        raise ConfigError(
            "expected texts, prompts or paths of images, one a line and without columns, on standard input; found "
            + (f"columns for {', '.join(names)}" if names else f"a model of {kind}")
            + ". Give a file: --file."
        )
    if kind == "images":
        return Columns(image=LINES)
    return Columns(prompt=LINES, response=LINES) if kind == "instructions" else Columns(text=LINES)


def _inputs(table: Table, columns: Columns, kind: Kind) -> Sequence[Input]:
    if kind == "instructions":
        return read_prompts(table, columns.prompt or LINES)
    return read_rows(table, columns, labelled=False).inputs


def _place_in(table: Table) -> Callable[[int], str]:
    return lambda i: f"{table.place(i)} of {table.name}"


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction as cells: of one more column per class asked for."""
    if "answer" in row:
        return {"answer": row["answer"]}
    cells = {"predicted": row["label"], "probability": row["probability"]}
    for i, (label, p) in enumerate(row.get("top", {}).items()):
        if i:
            cells |= {f"predicted_{i + 1}": label, f"probability_{i + 1}": p}
    return cells | {f"p({label})": p for label, p in row.get("probabilities", {}).items()}


@contextmanager
def _written(out: Path | TextIO) -> Iterator[TextIO]:
    """Yield an open text; a file appears when everything is written."""
    if not isinstance(out, Path):
        yield out
        return
    check_path(out)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"expected a file to write that ends in {', '.join(FORMATS)}; found {out}")
    if out.exists():
        raise RunFolderError(f"expected a new file to write; {out} exists. Choose another, or remove it.")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with writing(out), temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with writing(out):
            temporary.replace(out)
            sync_folder(out.parent)
    finally:
        temporary.unlink(missing_ok=True)


class _Writer(Protocol):
    def write(self, table: Table, more: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a table, each with more cells."""


def _writer(opened: TextIO, out: Path | TextIO, json_lines: bool) -> _Writer:
    suffix = out.suffix.lower() if isinstance(out, Path) else ".jsonl" if json_lines else ".csv"
    return (
        _JsonLines(opened) if suffix in (".jsonl", ".ndjson") else _Separated(opened, "\t" if suffix == ".tsv" else ",")
    )


def _rows_of(table: Table, more: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table with more cells."""
    taken = [name for name in (more[0] if more else ()) if name in table.columns]
    if taken:
        raise ConfigError(
            f"expected no column {taken[0]!r} in {table.name}, since that of the predictions is called so. Rename it."
        )
    columns = [table.values(column) for column in table.columns]
    for i, (values, cells) in enumerate(zip(zip(*columns, strict=True), more, strict=True)):
        yield i, dict(chain(zip(table.columns, values, strict=True), cells.items()))


class _JsonLines:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, table: Table, more: Sequence[Mapping[str, Any]]) -> None:
        for i, row in _rows_of(table, more):
            try:
                self._file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
            except TypeError as error:
                raise ConfigError(
                    f"expected values that JSON has in {table.place(i)} of {table.name}; {error}"
                ) from None


class _Separated:
    def __init__(self, file: TextIO, separator: str) -> None:
        self._file = file
        self._separator = separator
        self._columns: list[str] | None = None

    def write(self, table: Table, more: Sequence[Mapping[str, Any]]) -> None:
        rows = [row for _, row in _rows_of(table, more)]
        if not rows:
            return
        first = self._columns is None
        columns = self._columns = list(rows[0]) if self._columns is None else self._columns
        new = [name for name in rows[0] if name not in columns]
        if new:
            raise ConfigError(
                f"expected the columns of the first rows; {table.place(0)} of {table.name} has {new[0]!r}, too. "
                "Write JSON lines instead: a file that ends in .jsonl."
            )
        write_csv(self._file, columns, rows, header=first, separator=self._separator, safe=_cell)


def _plain(value: Any) -> Any:
    """Return a value that JSON lacks as a text: bytes, such as those of images, are left out."""
    return None if isinstance(value, (bytes, bytearray)) else str(value)


def _cell(value: Any) -> Any:
    """Return a cell of CSV; a number as a text, such as -0.5, is none that a spreadsheet could take for a formula."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    if value is None or isinstance(value, (bytes, bytearray)):
        return ""
    return value if isinstance(value, str) and NUMBER.fullmatch(value) else spreadsheet_safe(value)
