"""A data set, independent of its source."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Literal, TypeVar

import numpy as np

from fedhello.errors import DataError
from fedhello.randomness import generator

Kind = Literal["texts", "pairs", "images", "tensors", "instructions"]
T = TypeVar("T")
MOST_BYTES = 2**29
"""The most bytes of an image file."""

HeldOut = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is decoded later.

    Attributes:
        content: The path or the bytes of an image file, or pixels, uint8, shape (H, W) or (H, W, 3), with transparency
            one channel more.
        name: What messages call it.
    """

    content: Path | bytes | np.ndarray
    name: str

    @cached_property
    def digest(self) -> bytes:
        """A hash of the content.

        Raises:
            DataError: If its file cannot be read.
        """
        if isinstance(self.content, np.ndarray):
            return hashlib.sha256(repr(self.content.shape).encode() + self.content.tobytes()).digest()
        return hashlib.sha256(self.encoded(self.content)).digest()

    def encoded(self, content: Path | bytes) -> bytes:
        """Return the bytes of the image file that ``content`` is or names.

        Raises:
            DataError: If the file cannot be read.
        """
        if isinstance(content, bytes):
            return content
        try:
            kind = content.stat()
            if not S_ISREG(kind.st_mode):  # a pipe would be waited for, a device never ends
                raise DataError(f"expected the image {self.name}; it is no file")
            if kind.st_size > MOST_BYTES:
                raise DataError(
                    f"expected the image {self.name}; its {kind.st_size:,} bytes are more than {MOST_BYTES:,}. "
                    "Scale it down."
                )
            return content.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a name with NUL, or not of Unicode
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"expected the image {self.name}; it cannot be read: {reason}") from error


Input = str | tuple[str, str] | Picture | np.ndarray
"""A sample: a text, a pair of texts (also a prompt and a response), an image, or numbers, float32 or int64."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table, by role.

    Attributes:
        text: Texts; two columns for pairs of texts.
        label: Classes; for instruction data the category, which is optional.
        image: Paths or bytes of images; None for other data.
        prompt: A column, or a template with columns in braces; None for other data than instructions.
        response: A column or a template, likewise.
        group: The groups of a natural partition.
        tensor: Numbers of one shape, for a plain module; None for other data.
    """

    text: str | tuple[str, str] = "text"
    label: str = "label"
    image: str | None = None
    prompt: str | None = None
    response: str | None = None
    group: str | None = None
    tensor: str | None = None

    @property
    def kind(self) -> Kind:
        """The kind of samples in these columns."""
        if self.prompt is not None:
            return "instructions"
        if self.image is not None:
            return "images"
        if self.tensor is not None:
            return "tensors"
        return "texts" if isinstance(self.text, str) else "pairs"


UNNAMED = Columns()
"""The default columns."""


@dataclass(frozen=True)
class DataSet:
    """A data set before it is split.

    Attributes:
        inputs: n samples: texts; pairs of texts; (prompt, response) of instruction data; images; numbers.
        labels: Integers within 0 … C−1, shape (n,); categories of instruction data, all 0 where it has none.
        label_names: The names of the C classes or categories, sorted.
        kind: The kind of the inputs.
        groups: The group of each sample for a natural partition; empty without groups.
        parts: Positions of given validation and test parts, ascending; the other samples can be trained on.
        notes: Notes on changes while reading.
        place: Returns the name of a sample in messages: its row and file.
    """

    inputs: tuple[Input, ...]
    labels: np.ndarray
    label_names: tuple[str, ...]
    kind: Kind = "texts"
    groups: tuple[str, ...] = ()
    parts: Mapping[HeldOut, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    place: Callable[[int], str] = lambda i: f"sample {i + 1}"

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def pool(self) -> np.ndarray:
        """Positions that are in none of the parts, ascending."""
        free = np.ones(len(self), dtype=bool)
        for part in self.parts.values():
            free[part] = False
        return np.flatnonzero(free)


def identity(sample: Input, kind: Kind) -> object:
    """Return the key that identifies repeats: an image's digest, a prompt without its response, or the input.

    Texts are compared in Unicode's form NFC.
    """
    if isinstance(sample, Picture):
        return sample.digest
    if isinstance(sample, np.ndarray):
        return sample.tobytes()  # all are of one type and shape
    if isinstance(sample, tuple):
        return _same(sample[0]) if kind == "instructions" else (_same(sample[0]), _same(sample[1]))
    return _same(sample)


def _same(text: str) -> str:
    """Return what texts that differ in their Unicode form alone have in common."""
    return unicodedata.normalize("NFC", text)


def draw(data: DataSet, samples: int | None, held_out: int | None = None) -> DataSet:
    """Return a random part of a data set, the same for all seeds, with a note.

    Args:
        data: The data set.
        samples: The most samples outside the given parts; None takes all.
        held_out: The most samples of each given part; None takes all.

    Raises:
        DataError: If a class would be missing in training.
    """
    pool = data.pool
    chosen = _chosen(pool, samples, "data")
    missing = sorted(set(data.labels[pool].tolist()) - set(data.labels[chosen].tolist()))
    if missing:
        names = ", ".join(repr(data.label_names[c]) for c in missing)
        raise DataError(
            f"expected every class among data.samples, {len(chosen)} of {len(pool)}; there is no {names}. Raise it."
        )
    parts = {name: _chosen(part, held_out, name) for name, part in data.parts.items()}
    kept = np.sort(np.concatenate([chosen, *parts.values()]))
    if len(kept) == len(data):
        return data
    notes = [f"{len(chosen)} of {len(pool)} samples were drawn (data.samples)"] if len(chosen) < len(pool) else []
    for name, part in parts.items():
        if len(part) < (n := len(data.parts[name])):
            notes.append(f"{len(part)} of {n} {name} samples were drawn (data.held_out_samples)")
    return replace(
        data,
        inputs=taken(data.inputs, kept),
        labels=data.labels[kept],
        groups=taken(data.groups, kept) if data.groups else (),
        parts={name: np.searchsorted(kept, part) for name, part in parts.items()},
        notes=(*data.notes, *notes),
        place=lambda i: data.place(int(kept[i])),
    )


def _chosen(positions: np.ndarray, count: int | None, stream: str) -> np.ndarray:
    """Return at most ``count`` of the positions, ascending."""
    if count is None or count >= len(positions):
        return positions
    return np.sort(positions[generator(0, stream).choice(len(positions), count, replace=False)])


def taken(values: Sequence[T], positions: np.ndarray) -> tuple[T, ...]:
    """Return the values at some positions, in that order."""
    return tuple(values[i] for i in positions.tolist())
