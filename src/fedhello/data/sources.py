"""Find the data set of a configured name, read it and check it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedhello import embedded
from fedhello.data.columns import NO_CATEGORY, read_rows
from fedhello.data.dataset import UNNAMED, Columns, DataSet, HeldOut, Kind
from fedhello.data.embedded_sets import embedded_source
from fedhello.data.files import read_table
from fedhello.data.folders import folder_source
from fedhello.data.hub import hub_source, is_hub_id, is_saved, saved_source
from fedhello.data.memory import MEMORY
from fedhello.data.names import shown
from fedhello.data.samples import (
    HELD_OUT,
    PARTS,
    Part,
    Sample,
    check_classes,
    check_known,
    check_parts,
    decodable,
    elsewhere,
    known_names,
    labelled_as,
    samples_of,
    without_repeats,
)
from fedhello.data.tables import SUFFIXES, Source, Table
from fedhello.data.text_files import absent, exists, suffix_of
from fedhello.errors import DataError
from fedhello.formatting import nearest


def open_source(name: str, key: str = "data.name", encoding: str | None = None) -> Source:
    """Return the source of a data set; its tables are read later.

    Args:
        name: An embedded data set; a CSV, TSV, JSON or Parquet file; a folder of images by class, of idx files, of data
            files or of ``save_to_disk``; or a hub id.
        key: The key of the configuration that names it, for messages.
        encoding: Of text that has no byte order mark and is not UTF-8; None for no other.

    Raises:
        DataError: If it does not exist, or has no known form.
        MissingExtraError: If a package that it needs is not installed.
    """
    if name == MEMORY:
        raise DataError(
            "expected the data of this run, which were passed as objects; found none. Pass them again: "
            "fedhello.prepare(config, data=…)."
        )
    if name.startswith(embedded.PREFIX):
        return embedded_source(name)
    path = Path(name)
    if not exists(path):
        if is_hub_id(name):
            return hub_source(name)
        raise absent(name, key)
    if path.is_dir():
        return saved_source(path) if is_saved(path) else folder_source(path, encoding)
    return Source(name, {"": lambda: read_table(path, encoding)})


def load(
    name: str,
    columns: Columns = UNNAMED,
    *,
    split: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    encoding: str | None = None,
    file_per_client: bool = False,
    deduplicate: bool = True,
    skip_bad_images: bool = False,
    classes: Sequence[str] | None = None,
    labelled: bool = True,
    source: Source | None = None,
    only: Sequence[str] | None = None,
) -> DataSet:
    """Read the data set of a configured name, or of a given source.

    Args:
        name: See ``open_source``.
        columns: The roles of its columns; by default those that the data set defines itself.
        split: The split to train on; None takes the only one, or the one called train.
        validation: A split or a file to validate on; None if a share of the training data is used.
        test: A split or a file to test on, likewise.
        encoding: See ``open_source``.
        file_per_client: Whether each file of the folder ``name`` is one client's, so that groups are the files' names.
        deduplicate: Whether to keep only the first sample of each text, image or prompt, so that none is both trained
            on and tested; test and validation samples are kept before training samples.
        skip_bad_images: Whether to leave out images that cannot be decoded, with a note.
        classes: The names of all classes, for a client with samples of some; None takes those that occur, at
            least two.
        labelled: Whether labels are read; if not, they may be missing.
        source: The source of the data; None takes that of ``name``.
        only: The labels whose samples are used; None uses all.

    Raises:
        MissingExtraError: If the package of an embedded data set or a format is not installed.
        DataError: If something cannot be read, or the data set cannot be trained and tested on.
    """
    source = source or open_source(name, encoding=encoding)
    if source.columns is not None and replace(columns, group=None) == UNNAMED:
        columns = replace(source.columns, group=columns.group)
    classes = classes if labelled else [NO_CATEGORY]
    held_out, used = _held_out(source, {"validation": validation, "test": test}, encoding)
    _check_files({"data.name": name, "data.validation": validation, "data.test": test})
    training, unused = (_client_tables(source, used), []) if file_per_client else training_table(source, split, used)
    names: dict[Part, str] = {"train": source.name, **{part: table.name for part, table in held_out.items()}}
    read, said = _read(training, held_out, columns, labelled)
    check_parts(names, read, lambda _: "it has no row")
    usable, unusable = _usable(read, names, columns.kind, classes, only, skip_bad_images)
    samples, repeats = _first_of_each(usable, names, columns.kind) if deduplicate else (usable, [])
    notes = list(dict.fromkeys([*unused, *said, *unusable, *repeats]))
    grouped = file_per_client or columns.group is not None
    return _assemble(samples, name, columns.kind, notes, grouped, classes, usable)


def _read(
    training: Mapping[str, Table], held_out: Mapping[HeldOut, Table], columns: Columns, labelled: bool
) -> tuple[list[Sample], list[str]]:
    """Return the samples of all tables, those for training first, and notes on them."""
    samples: list[Sample] = []
    notes: list[str] = []
    for group, table in training.items():
        rows = read_rows(table, columns, labelled)
        samples += samples_of("train", rows, group)
        notes += [*rows.notes, *_split_notes(table)]
    for part, table in held_out.items():
        known, more = _groupable(part, table, columns)
        rows = read_rows(table, known, labelled)
        samples += samples_of(part, rows, "")
        notes += [*rows.notes, *more]
    return samples, notes


def _usable(
    samples: list[Sample],
    names: Mapping[Part, str],
    kind: Kind,
    classes: Sequence[str] | None,
    only: Sequence[str] | None,
    skip_bad_images: bool,
) -> tuple[list[Sample], list[str]]:
    """Return the samples with one name for each class, without those that may not or cannot be used, and notes."""
    samples, notes = known_names(samples, classes)
    if only is not None:
        samples, more = labelled_as(samples, only)
        notes += more
        check_parts(names, samples, lambda _: f"none is labelled {', '.join(only)}")
    if skip_bad_images and kind == "images":
        samples, more = decodable(samples)
        notes += more
        check_parts(names, samples, lambda _: "none of its images can be decoded")
    return samples, notes


def _first_of_each(samples: list[Sample], names: Mapping[Part, str], kind: Kind) -> tuple[list[Sample], list[str]]:
    """Return the samples without repeats, and notes."""
    kept, notes = without_repeats(samples, kind)
    check_parts(names, kept, lambda part: elsewhere(part, samples, kept, kind, names))
    return kept, notes


def _check_files(named: Mapping[str, str | None]) -> None:
    """Check that no file is named twice, for parts that must differ."""
    keys: dict[Path, str] = {}
    for key, name in named.items():
        if name is None or not exists(Path(name)) or Path(name).is_dir():
            continue
        other = keys.setdefault(Path(name).resolve(), key)
        if other != key:
            raise DataError(f"expected {other} and {key} to be different files; both are {name}")


def _split_notes(table: Table) -> list[str]:
    """Return a note on a column that says which rows are for testing, since all rows are used alike."""
    for column in table.columns:
        if column.casefold() in ("split", "subset"):
            found = {str(value).strip().casefold() for value in table.values(column)}
            if {"train"} < found <= {"train", "validation", "valid", "val", "dev", "test"}:
                return [
                    f"{table.name} has a column {column!r} with {', '.join(sorted(found))}; all rows are used alike. "
                    "Write a file for each to hold some out"
                ]
    return []


def _held_out(
    source: Source, asked: Mapping[HeldOut, str | None], encoding: str | None
) -> tuple[dict[HeldOut, Table], list[str]]:
    """Return the tables for validation and test, and the source's splits among them."""
    tables: dict[HeldOut, Table] = {}
    used: list[str] = []
    for part, name in asked.items():
        if name is None:
            continue
        if name in source.splits:
            if name in used:
                raise DataError(f"expected data.validation and data.test to differ; both are the split {name!r}")
            tables[part] = source.splits[name]()
            used.append(name)
        elif exists(Path(name)):
            tables[part] = _only_table(open_source(name, f"data.{part}", encoding), f"data.{part}")
        elif suffix_of(Path(name)) in SUFFIXES:
            raise absent(name, f"data.{part}")
        else:
            raise _no_split(source, f"data.{part}", name, "a file, or ")
    return tables, used


def _groupable(part: HeldOut, table: Table, columns: Columns) -> tuple[Columns, list[str]]:
    """Return the columns to read a table with that is held out, which need not have that of the groups; and notes."""
    if columns.group is None or columns.group in table.columns:
        return columns, []
    note = f"{table.name} has no column {columns.group!r}, so there is no test accuracy for each of its values"
    return replace(columns, group=None), [note] if part == "test" else []


def _only_table(source: Source, key: str) -> Table:
    if len(source.splits) > 1:
        raise DataError(f"expected {key} to be one table; {source.name} has {_listed(source.splits)}")
    return next(iter(source.splits.values()))()


def _client_tables(source: Source, used: Sequence[str]) -> dict[str, Table]:
    """Return every file of a folder that is not held out, by its name without the suffix."""
    if not source.files:
        raise DataError(
            f"expected data.name to be a folder with one CSV, JSONL or Parquet file per client, since "
            f"data.partition.kind is files; found {source.name}"
        )
    return {name: read() for name, read in source.splits.items() if name not in used}


def training_table(source: Source, split: str | None, used: Sequence[str]) -> tuple[dict[str, Table], list[str]]:
    """Return the table to train on, and a note on unused splits.

    Args:
        source: The data set.
        split: The split to train on; None takes the only one, or the one called train.
        used: The splits that are held out.

    Raises:
        DataError: If there is no such split.
    """
    free = [name for name in source.splits if name not in used]
    if split is None:
        split = free[0] if len(free) == 1 else "train"
        if split not in free:
            hint = ", or data.partition={kind: files} if each is one client's" if source.files else ""
            raise DataError(
                f"expected data.split, since {source.name} has no split train that is free for training but "
                f"{_listed(free)}. Name one of them{hint}."
            )
    if split not in source.splits:
        raise _no_split(source, "data.split", split)
    if split in used:
        raise DataError(f"expected data.split to differ from data.validation and data.test; found {split!r} in both")
    unused = [name for name in free if name != split]
    notes = [f"{source.name} also has {_listed(unused)}, which is not used; see data.test and data.validation"]
    return {"": source.splits[split]()}, notes if unused else []


def _no_split(source: Source, key: str, name: str, otherwise: str = "") -> DataError:
    named = [split for split in source.splits if split]
    has = f"has {_listed(named)}" + nearest(name, named) if named else "has no splits."
    found = f"found {shown(name)}. {source.name} {has}"
    return DataError(f"expected {key} to be {otherwise}a split of the data set; {found}")


def _listed(splits: Iterable[str]) -> str:
    names = [repr(name) for name in splits]
    return ("the split " if len(names) == 1 else "the splits ") + ", ".join(names)


def _assemble(
    samples: list[Sample],
    name: str,
    kind: Kind,
    notes: list[str],
    grouped: bool,
    classes: Sequence[str] | None,
    before: list[Sample],
) -> DataSet:
    of_part = {part: [i for i, sample in enumerate(samples) if sample.part == part] for part in PARTS}
    names = sorted({sample.label for sample in samples})
    if kind != "instructions":
        if classes is None:
            check_classes(samples, name, before)
        else:
            check_known(samples, classes)
            names = list(classes)
    number = {label: c for c, label in enumerate(names)}
    tables = list(dict.fromkeys(sample.rows.place for sample in samples))
    of_table = {place: i for i, place in enumerate(tables)}
    where = np.array([(of_table[sample.rows.place], sample.row) for sample in samples])  # no object for each of them
    return DataSet(
        inputs=tuple(sample.value for sample in samples),
        labels=np.array([number[sample.label] for sample in samples]),
        label_names=tuple(names),
        kind=kind,
        groups=tuple(sample.group for sample in samples) if grouped else (),
        parts={part: np.array(of_part[part], dtype=int) for part in HELD_OUT if of_part[part]},
        notes=tuple(notes),
        place=lambda i: tables[where[i, 0]](int(where[i, 1])),
    )
