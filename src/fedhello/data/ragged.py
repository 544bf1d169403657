"""Rows of different lengths in one array, so that a million short rows take no object each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import IO

import numpy as np

from fedhello.errors import DataError


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of whole numbers; a part of them shares the numbers.

    Attributes:
        values: The numbers of all rows, int32, in memory or mapped from a file; never written to.
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
        if begins.shape == self.starts.shape and len(self.values) == self.sizes.sum() and (begins == self.starts).all():
            return self.values
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


IN_MEMORY = 2**25
"""The most bytes of numbers that are gathered in memory; more go to a file, from which they are read where needed."""


@dataclass
class Gathered:
    """Rows that come in parts.

    Attributes:
        opened: Opens a file that is gone once it is closed, for numbers that are more than ``IN_MEMORY``.
    """

    opened: Callable[[], IO[bytes]]
    _parts: list[Ragged] = field(default_factory=list, init=False)
    _sizes: list[np.ndarray] = field(default_factory=list, init=False)
    _file: IO[bytes] | None = field(default=None, init=False)

    def add(self, rows: Iterable[Sequence[int]]) -> None:
        """Add rows after those before.

        Raises:
            DataError: If the file has no room for them.
        """
        part = Ragged.of(rows)
        self._sizes.append(part.sizes)
        self._parts.append(part)
        if sum(one.values.nbytes for one in self._parts) > IN_MEMORY:
            self._write()

    def _write(self) -> None:
        try:
            self._file = self._file or self.opened()
            for part in self._parts:
                self._file.write(part.values.data)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"expected room on disk for tokens that are too many for memory; found none: {error}. Make room, or "
                "name another folder in the environment variable FEDHELLO_CACHE."
            ) from error
        self._parts.clear()

    def rows(self) -> Ragged:
        """Return all rows of at least one part."""
        if self._file is None:
            return Ragged.together(self._parts)
        self._write()
        with self._file as file:  # the mapping stays
            return Ragged.joined(np.memmap(file, np.int32, mode="r"), np.concatenate(self._sizes))
