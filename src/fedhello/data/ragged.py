"""Rows of different lengths in one array, so that a million short rows take no object each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of whole numbers; a part of them shares the numbers.

    Attributes:
        values: The numbers of all rows, int32.
        starts: Where each row begins in them, shape (n,).
        sizes: How many numbers each row has, shape (n,).
    """

    values: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def of(rows: Iterable[Sequence[int] | np.ndarray]) -> "Ragged":
        """Return rows as they are."""
        given = list(rows)
        sizes = np.fromiter(map(len, given), dtype=int, count=len(given))
        values = np.fromiter(chain.from_iterable(given), dtype=np.int32, count=int(sizes.sum()))
        return Ragged.joined(values, sizes)

    @staticmethod
    def joined(values: np.ndarray, sizes: np.ndarray) -> "Ragged":
        """Return the rows that follow each other in an array."""
        return Ragged(values, np.cumsum(sizes) - sizes, sizes)

    @staticmethod
    def together(parts: Sequence["Ragged"]) -> "Ragged":
        """Return the rows of at least one part, one part after the other."""
        return Ragged.joined(np.concatenate([part.flat() for part in parts]), np.concatenate([p.sizes for p in parts]))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> np.ndarray:
        row: np.ndarray = self.values[self.starts[i] : self.starts[i] + self.sizes[i]]
        return row

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def subset(self, positions: np.ndarray) -> "Ragged":
        """Return the rows at some positions, in that order."""
        return Ragged(self.values, self.starts[positions], self.sizes[positions])

    def flat(self) -> np.ndarray:
        """Return the numbers of these rows alone, one row after the other."""
        begins = np.cumsum(self.sizes) - self.sizes
        numbers: np.ndarray = self.values[np.repeat(self.starts - begins, self.sizes) + np.arange(self.sizes.sum())]
        return numbers

    def table(self, value: int) -> np.ndarray:
        """Return the rows as a table, int64, shape (n, longest), with a value where no number is."""
        present = self.present()
        filled = np.full(present.shape, value, dtype=np.int64)
        filled[present] = self.flat()
        return filled

    def present(self) -> np.ndarray:
        """Return where the table has numbers of the rows, shape (n, longest)."""
        where: np.ndarray = np.arange(self.sizes.max(initial=0)) < self.sizes[:, None]
        return where
