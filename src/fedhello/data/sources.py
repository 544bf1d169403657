"""Find the data set of a configured name, read it and check it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedhello import embedded
from fedhello.data.columns import NO_CATEGORY, Rows, read_rows
from fedhello.data.dataset import UNNAMED, Columns, DataSet, HeldOut, Input, Kind, Picture, identity
from fedhello.data.embedded_sets import embedded_source
from fedhello.data.folders import folder_source
from fedhello.data.hub import hub_source, is_hub_id, is_saved, saved_source
from fedhello.data.memory import MEMORY
from fedhello.data.pictures import undecodable
from fedhello.data.tables import Source, Table, read_table
from fedhello.errors import DataError
from fedhello.formatting import kind_of_path, nearest

Part = Literal["train"] | HeldOut
HELD_OUT: tuple[HeldOut, ...] = ("validation", "test")
_PARTS: tuple[Part, ...] = ("train", *HELD_OUT)


def open_source(name: str) -> Source:
    """Return the source of a data set; its tables are read later.

    Args:
        name: An embedded data set; a CSV, JSONL or Parquet file; a folder of images by class, of idx files, of data
            files or of ``save_to_disk``; or a hub id.

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
    path, what = Path(name), kind_of_path(name)
    if what == "no path":
        raise DataError(f"expected data as data.name; found a name that no file can have, {name!r:.100}")
    if what == "folder":
        return saved_source(path) if is_saved(path) else folder_source(path)
    if what == "nothing" and is_hub_id(name):
        return hub_source(name)
    return Source(name, {"": lambda: read_table(path)})


def load(
    name: str,
    columns: Columns = UNNAMED,
    *,
    split: str | None = None,
    validation: str | None = None,
    test: str | None = None,
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
    source = source or open_source(name)
    if source.columns is not None and replace(columns, group=None) == UNNAMED:
        columns = replace(source.columns, group=columns.group)
    held_out, used = _held_out(source, {"validation": validation, "test": test})
    notes: list[str] = []
    if file_per_client:
        training = _client_tables(source, used)
    else:
        training, notes = training_table(source, split, used)
    samples: list[_Sample] = []
    for group, table in training.items():
        samples += _samples("train", read_rows(table, columns, labelled), group)
    for part, table in held_out.items():
        known, more = _groupable(part, table, columns)
        samples += _samples(part, read_rows(table, known, labelled), "")
        notes += more
    if only is not None:
        samples, more = _labelled_as(samples, only)
        notes += more
    if skip_bad_images and columns.kind == "images":
        samples, more = _decodable(samples)
        notes += more
    if deduplicate:
        samples, more = _without_repeats(samples, columns.kind)
        notes += more
    grouped = file_per_client or columns.group is not None
    return _assemble(samples, name, columns.kind, notes, grouped, classes if labelled else [NO_CATEGORY])


@dataclass(frozen=True)
class _Sample:
    """A row of a table, and the part that it belongs to."""

    value: Input
    label: str
    group: str
    part: Part
    row: int
    rows: Rows

    @property
    def place(self) -> str:
        return self.rows.place(self.row)


def _samples(part: Part, rows: Rows, group: str) -> list[_Sample]:
    groups = [group] * len(rows.inputs) if group else rows.groups
    return [
        _Sample(value, label, group, part, row, rows)
        for row, (value, label, group) in enumerate(zip(rows.inputs, rows.labels, groups, strict=True))
    ]


def _held_out(source: Source, asked: Mapping[HeldOut, str | None]) -> tuple[dict[HeldOut, Table], list[str]]:
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
        elif kind_of_path(name) in ("file", "folder"):
            tables[part] = _only_table(open_source(name), f"data.{part}")
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
    return DataError(f"expected {key} to be {otherwise}a split of the data set; found {name!r}. {source.name} {has}")


def _listed(splits: Iterable[str]) -> str:
    names = [repr(name) for name in splits]
    return ("the split " if len(names) == 1 else "the splits ") + ", ".join(names)


def _labelled_as(samples: list[_Sample], only: Sequence[str]) -> tuple[list[_Sample], list[str]]:
    kept = [sample for sample in samples if sample.label in only]
    left_out = len(samples) - len(kept)
    return kept, [
        f"{left_out} of {len(samples)} samples have other labels than {', '.join(only)} and stay unused"
    ] if left_out else []


def _decodable(samples: list[_Sample]) -> tuple[list[_Sample], list[str]]:
    pictures = [sample.value for sample in samples if isinstance(sample.value, Picture)]
    bad = undecodable(pictures)
    if not bad:
        return samples, []
    first = pictures[min(bad)].name
    note = f"{len(bad)} of {len(samples)} images cannot be decoded and were left out, for example {first}"
    return [sample for i, sample in enumerate(samples) if i not in bad], [note]


WORDS: dict[Kind, str] = {
    "texts": "text",
    "pairs": "pair of texts",
    "images": "image",
    "tensors": "tensor",
    "instructions": "prompt",
}


def _without_repeats(samples: list[_Sample], kind: Kind) -> tuple[list[_Sample], list[str]]:
    """Keep the first of equal samples, with those of the test and validation data before the training data."""
    first: dict[object, int] = {}
    keys = [identity(sample.value, kind) for sample in samples]
    for part in reversed(_PARTS):
        for i, (key, sample) in enumerate(zip(keys, samples, strict=True)):
            if sample.part == part:
                first.setdefault(key, i)
    kept = [samples[first[key]] for key in keys]
    repeats = [(sample, stays) for sample, stays in zip(samples, kept, strict=True) if sample is not stays]
    if not repeats:
        return samples, []
    note = f"{len(repeats)} of {len(samples)} samples repeat an earlier {WORDS[kind]} and were left out"
    conflicts = sum(_answer(sample, kind) != _answer(stays, kind) for sample, stays in repeats)
    if conflicts:
        note += (
            f"; {conflicts} of them carry another {'response' if kind == 'instructions' else 'label'} than the first"
        )
    across = sum(sample.part != stays.part for sample, stays in repeats)
    if across:
        note += f"; {across} of them stay only in the test or validation data, where they are as well"
    return [samples[i] for i in sorted(first.values())], [note]


def _answer(sample: _Sample, kind: Kind) -> str:
    return sample.value[1] if kind == "instructions" and isinstance(sample.value, tuple) else sample.label


def _assemble(
    samples: list[_Sample], name: str, kind: Kind, notes: list[str], grouped: bool, classes: Sequence[str] | None
) -> DataSet:
    of_part = {part: [i for i, sample in enumerate(samples) if sample.part == part] for part in _PARTS}
    if not of_part["train"]:
        raise DataError(f"expected at least one sample in {name}; it has none")
    names = sorted({sample.label for sample in samples})
    if kind != "instructions":
        if classes is None:
            _check_classes(samples, name)
        else:
            _check_known(samples, classes)
            names = list(classes)
    number = {label: c for c, label in enumerate(names)}
    return DataSet(
        inputs=tuple(sample.value for sample in samples),
        labels=np.array([number[sample.label] for sample in samples]),
        label_names=tuple(names),
        kind=kind,
        groups=tuple(sample.group for sample in samples) if grouped else (),
        parts={part: np.array(of_part[part], dtype=int) for part in HELD_OUT if of_part[part]},
        notes=tuple(notes),
    )


def _check_known(samples: list[_Sample], classes: Sequence[str]) -> None:
    unknown = next((sample for sample in samples if sample.label not in classes), None)
    if unknown is not None:
        raise DataError(
            f"expected the labels of the federation, {', '.join(classes)}; {unknown.place} is labelled "
            f"{unknown.label!r}{nearest(unknown.label, classes)}"
        )


def _check_classes(samples: list[_Sample], name: str) -> None:
    trained = {sample.label for sample in samples if sample.part == "train"}
    if len(trained) < 2:
        raise DataError(f"expected at least two classes in {name}; every sample is labelled {min(trained)!r}")
    unseen = next((sample for sample in samples if sample.label not in trained), None)
    if unseen is not None:
        raise DataError(
            f"expected only labels of the training data in data.{unseen.part}; {unseen.place} is labelled "
            f"{unseen.label!r}{nearest(unseen.label, sorted(trained))}"
        )
