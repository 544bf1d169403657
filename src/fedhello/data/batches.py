"""Tokenised samples, and batches of them that waste little on padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a model is called with.

    Attributes:
        inputs: Keyword arguments of the model: ``input_ids`` and ``attention_mask``, int64, shape (b, longest), or
            ``pixel_values``, shape (b, channels, height, width).
        labels: Int64, shape (b,).
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Samples b and tokens T of each; images, which all are of one size, count as one token."""
        ids = self.inputs.get("input_ids")
        return len(self.labels), 1 if ids is None else ids.shape[1]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch({name: value.to(device) for name, value in self.inputs.items()}, self.labels.to(device))


class Samples(Protocol):
    """A client's or the server's data, ready for the model."""

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


@dataclass(frozen=True)
class Images:
    """Images of one size.

    Attributes:
        pixels: Normalised, float32, shape (n, channels, height, width).
        labels: Int64, shape (n,).
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Images":
        """Return the images at some positions, in that order."""
        return Images(self.pixels[positions], self.labels[positions])

    def lengths(self) -> np.ndarray:
        """Return 1 for each image, shape (n,)."""
        return np.ones(len(self), dtype=int)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the images at some positions."""
        inputs = {"pixel_values": torch.from_numpy(self.pixels[positions])}
        return Batch(inputs, torch.from_numpy(self.labels[positions].astype(np.int64)))


@dataclass(frozen=True)
class Examples:
    """Tokenised samples, unpadded.

    Attributes:
        tokens: Per sample its token ids, int64, shape (length,).
        labels: Int64, shape (n,).
        pad: The id that fills a batch up to its longest sample.
    """

    tokens: tuple[np.ndarray, ...]
    labels: np.ndarray
    pad: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: np.ndarray) -> "Examples":
        """Return the samples at some positions, in that order."""
        return Examples(tuple(self.tokens[i] for i in positions), self.labels[positions], self.pad)

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each sample, shape (n,)."""
        return np.array([len(t) for t in self.tokens], dtype=int)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the samples at some positions, padded to the longest of them."""
        rows = [self.tokens[i] for i in positions]
        longest = max(len(row) for row in rows)
        ids = np.full((len(rows), longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = row
            mask[r, : len(row)] = 1
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return Batch(inputs, torch.from_numpy(self.labels[positions].astype(np.int64)))


def tokenise(texts: Sequence[str], labels: np.ndarray, tokenizer: Any, max_length: int) -> tuple[Examples, int]:
    """Tokenise texts once.

    Args:
        texts: n texts.
        labels: Shape (n,).
        tokenizer: Of the foundation model, with a padding token.
        max_length: Longest sample, in tokens; longer ones are cut.

    Returns:
        The samples, and how many of them were cut.
    """
    encoded = tokenizer(list(texts), add_special_tokens=True, truncation=False, padding=False, verbose=False)
    whole = np.array([len(ids) for ids in encoded["input_ids"]])
    if (whole > max_length).any():
        encoded = tokenizer(list(texts), add_special_tokens=True, truncation=True, max_length=max_length)
    tokens = tuple(np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"])
    return Examples(tokens, np.asarray(labels), int(tokenizer.pad_token_id)), int((whole > max_length).sum())


WINDOW = 16
"""Batches that samples are sorted by length within."""


def training_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield one epoch's batches as positions: samples of like length together, batches in random order.

    Samples are shuffled, ordered by length within windows of ``WINDOW`` batches, cut into batches whose sizes differ by
    at most one, and the batches are shuffled. The widest batch comes first, so that a client that cannot hold it finds
    out at once.

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
    """Yield every position once, longest samples first, in batches of like length."""
    order = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]
