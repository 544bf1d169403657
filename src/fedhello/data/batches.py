"""Encoded samples, and batches of them with little padding."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from fedhello.data.ragged import Ragged

IGNORED: Final = -100
"""Label of a token that is not predicted: a prompt's token or padding."""


@dataclass(frozen=True)
class Batch:
    """The inputs and labels of one call of a model.

    Attributes:
        inputs: Keyword arguments of the model: ``input_ids`` and ``attention_mask``, int64, shape (b, longest), for
            some models ``token_type_ids``; or ``pixel_values``, shape (b, channels, height, width); or ``inputs`` of a
            plain module, shape (b, …).
        labels: Int64; in classification shape (b,), in language modelling shape (b, longest), where tokens that are
            not predicted have the label ``IGNORED``.
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples b and tokens T per sample; an image or tensor counts as one token."""
        ids = self.inputs.get("input_ids")
        return len(self.labels), 1 if ids is None else ids.shape[1]

    @property
    def labelled(self) -> int | None:
        """Number of tokens that are predicted, in language modelling; None in classification."""
        return None if self.labels.dim() == 1 else int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch({name: value.to(device) for name, value in self.inputs.items()}, self.labels.to(device))


class Samples(Protocol):
    """A client's or the server's encoded samples."""

    @property
    def labels(self) -> np.ndarray:
        """Int64, shape (n,)."""
        ...

    def __len__(self) -> int: ...

    def subset(self, positions: np.ndarray) -> "Samples":
        """Return the samples at some positions, in that order."""
        ...

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each sample, shape (n,)."""
        ...

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the samples at some positions as one batch."""
        ...


class Pixels(Protocol):
    """Images of one size, in memory or decoded at each access."""

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at some positions: uint8, shape (b, channels, height, width)."""
        ...


@dataclass(frozen=True)
class Images:
    """Images of one size; parts of it share the pixels.

    Attributes:
        pixels: Of the whole data set.
        rows: Which of them these samples are, shape (n,).
        labels: Int64, shape (n,).
        mean: What the model takes from each channel, of values within 0 … 1; shape (channels,).
        std: What it then divides each channel by, likewise.
    """

    pixels: Pixels
    rows: np.ndarray
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Images":
        """Return the images at some positions, in that order."""
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def lengths(self) -> np.ndarray:
        """Return 1 for each image, shape (n,)."""
        return np.ones(len(self), dtype=int)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the images at some positions, normalised."""
        x = torch.from_numpy(self.pixels[self.rows[positions]]).float().div_(255)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        inputs = {"pixel_values": x.sub_(mean).div_(std)}
        return Batch(inputs, torch.from_numpy(self.labels[positions].astype(np.int64)))


@dataclass(frozen=True)
class Tensors:
    """Samples of one shape that a plain module is called with.

    Attributes:
        values: Float32 or int64, shape (n, …).
        labels: Int64, shape (n,).
    """

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Tensors":
        """Return the samples at some positions, in that order."""
        return Tensors(self.values[positions], self.labels[positions])

    def lengths(self) -> np.ndarray:
        """Return 1 for each sample, shape (n,)."""
        return np.ones(len(self), dtype=int)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the samples at some positions."""
        inputs = {"inputs": torch.from_numpy(self.values[positions])}
        return Batch(inputs, torch.from_numpy(self.labels[positions].astype(np.int64)))


@dataclass(frozen=True)
class Examples:
    """Tokenised samples, unpadded; parts of them share the tokens.

    Attributes:
        tokens: Per sample its token ids.
        labels: Classes, int64, shape (n,).
        pad: The id that fills a batch up to its longest sample.
        segments: Of text pairs, where the model tells them apart: per sample 0 or 1 for each token.
        answers: Of prompts with responses: per sample the position, at least 1, at which the response begins, shape
            (n,). The batch's labels are then the tokens of the responses.
    """

    tokens: Ragged
    labels: np.ndarray
    pad: int
    segments: Ragged | None = None
    answers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Examples":
        """Return the samples at some positions, in that order."""
        return Examples(
            self.tokens.subset(positions),
            self.labels[positions],
            self.pad,
            None if self.segments is None else self.segments.subset(positions),
            None if self.answers is None else self.answers[positions],
        )

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each sample, shape (n,)."""
        return self.tokens.sizes

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the samples at some positions, padded on the right to the longest of them."""
        rows = self.tokens.subset(positions)
        ids, present = rows.table(self.pad), rows.present()
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(present.astype(np.int64))}
        if self.segments is not None:
            inputs["token_type_ids"] = torch.from_numpy(self.segments.subset(positions).table(0))
        if self.answers is None:
            return Batch(inputs, torch.from_numpy(self.labels[positions].astype(np.int64)))
        answered = present & (np.arange(present.shape[1]) >= self.answers[positions][:, None])
        return Batch(inputs, torch.from_numpy(np.where(answered, ids, IGNORED)))


WINDOW = 16
"""Number of batches within which samples are sorted by length."""


def training_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield one epoch's batches as positions: samples of similar length together, batches in random order.

    Samples are shuffled, ordered by length within windows of ``WINDOW`` batches, cut into batches whose sizes differ by
    at most one, and the batches are shuffled. The widest batch comes first, so that a lack of memory shows
    at once.

    Args:
        lengths: Tokens per sample, shape (n,), n ≥ 1.
        batch_size: Largest batch.
        rng: The client's generator for this epoch.
    """
    shuffled = rng.permutation(len(lengths))
    window = WINDOW * batch_size
    batches: list[np.ndarray] = []
    for begin in range(0, len(shuffled), window):
        part = shuffled[begin : begin + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += np.array_split(part, -(-len(part) // batch_size))
    order = rng.permutation(len(batches)).tolist()
    widest = max(order, key=lambda b: len(batches[b]) * int(lengths[batches[b]].max()))
    order.remove(widest)
    for b in [widest, *order]:
        yield batches[b]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield every position once, longest samples first, in batches of similar length."""
    order = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]
