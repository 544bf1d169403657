"""What a data set is, whatever it was read from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fedhello.errors import DataError
from fedhello.randomness import generator

Kind = Literal["texts", "pairs", "images", "tensors", "instructions"]
T = TypeVar("T")
HeldOut = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is decoded later.

    Attributes:
        content: The path of an image file, the bytes of one, or the pixels, uint8, shape (H, W) or (H, W, 3).
        name: What messages call it.
    """

    content: Path | bytes | np.ndarray
    name: str

    def digest(self) -> bytes:
        """Return a hash of the content.

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
            return content.read_bytes()
        except OSError as error:
            raise DataError(f"expected the image {self.name}; it cannot be read: {error.strerror}") from error


Input = str | tuple[str, str] | Picture | np.ndarray
"""A sample: a text, two of them (also a prompt and a response), an image, or numbers, float32 or int64."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what.

    Attributes:
        text: Texts; two columns for pairs of texts.
        label: Classes; of instruction data the category, which it may lack.
        image: Paths or bytes of images; given for images only.
        prompt: A column, or a template with columns in braces; given for instruction data only.
        response: Likewise.
        group: What a natural partition follows.
        tensor: Numbers of one shape, for a plain module; given for them only.
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
        """The kind of data set that these columns make."""
        if self.prompt is not None:
            return "instructions"
        if self.image is not None:
            return "images"
        if self.tensor is not None:
            return "tensors"
        return "texts" if isinstance(self.text, str) else "pairs"


UNNAMED = Columns()
"""The columns where nobody names any."""


@dataclass(frozen=True)
class DataSet:
    """A data set before it is split.

    Attributes:
        inputs: n samples: texts; pairs of texts; (prompt, response) of instruction data; images; numbers.
        labels: Integers within 0 … C−1, shape (n,); categories of instruction data, all 0 where it has none.
        label_names: The names of the C classes or categories, sorted.
        kind: Of the inputs.
        groups: Per sample, what a natural partition follows; empty without one.
        parts: Positions that the user chose for validation or test, ascending; the others can be trained on.
        notes: What was changed while reading, for people.
    """

    inputs: tuple[Input, ...]
    labels: np.ndarray
    label_names: tuple[str, ...]
    kind: Kind = "texts"
    groups: tuple[str, ...] = ()
    parts: Mapping[HeldOut, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
    """Return the key by which repeats are found: an image's digest, a prompt without its response, or the input."""
    if isinstance(sample, Picture):
        return sample.digest()
    if isinstance(sample, np.ndarray):
        return sample.tobytes()  # all are of one type and shape
    return sample[0] if kind == "instructions" else sample


def draw(data: DataSet, samples: int | None, held_out: int | None = None) -> DataSet:
    """Return a random part of a data set, the same for every run's seed, with a note.

    Args:
        data: The data set.
        samples: The most samples to take of those in none of its parts; None takes all.
        held_out: The most samples to take of each of its parts; None takes all.

    Raises:
        DataError: If a class would be lost to training.
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
    )


def _chosen(positions: np.ndarray, count: int | None, stream: str) -> np.ndarray:
    """Return at most ``count`` of the positions, ascending."""
    if count is None or count >= len(positions):
        return positions
    return np.sort(positions[generator(0, stream).choice(len(positions), count, replace=False)])


def taken(values: Sequence[T], positions: np.ndarray) -> tuple[T, ...]:
    """Return the values at some positions, in that order."""
    return tuple(values[i] for i in positions.tolist())
