"""Settings of the data set, of the server's part, and of the partition over clients."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedhello.data.dataset import UNNAMED, Columns
from fedhello.data.partition import Parts


@dataclass(frozen=True)
class Pool:
    """The samples that are split over clients.

    Attributes:
        labels: Integers, shape (n,).
        groups: Domain, user or file of each sample; empty where the data name none.
        label_names: The classes' names, for messages.
        in_memory: Whether groups are data sets in memory and not files.
    """

    labels: np.ndarray
    groups: Sequence[str]
    label_names: Sequence[str]
    in_memory: bool = False


class Partition(Protocol):
    """A partition: how samples are split over clients."""

    @property
    def kind(self) -> str:
        """The partition's name."""
        ...

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Return the positions, in the pool, of each client's samples.

        Raises:
            DataError: If the samples do not fit the partition.
        """
        ...


@dataclass(frozen=True)
class DataSettings:
    """Settings of the data set; see ``data`` in docs/reference/configuration.md.

    Attributes:
        name: An embedded data set, a hub id, a file or a folder.
        columns: The columns, by role.
        encoding: Of text that has no byte order mark and is not UTF-8; None for no other.
        split: The only split that is read; None reads all.
        samples: The most samples, drawn at random; None uses all.
        held_out_samples: The most samples of given validation and test parts; None uses all.
        clients: K.
        partition: The partition over clients.
        validation: The server's share for selection, or the name of a file or split.
        test: The server's share for reporting, or the name of a file or split.
        proxy: Number of the server's samples for Fisher scores.
        public: Number of the server's samples for distillation, or the name of such a data set.
        deduplicate: Whether equal samples count once.
        skip_bad_images: Whether images that cannot be decoded are left out with a note; else they are an error.
    """

    name: str
    partition: Partition
    columns: Columns = field(default_factory=lambda: UNNAMED)
    encoding: str | None = None
    split: str | None = None
    samples: int | None = None
    held_out_samples: int | None = None
    clients: int = 20
    validation: float | str = 0.1
    test: float | str = 0.2
    proxy: int = 100
    public: int | str = 0
    deduplicate: bool = True
    skip_bad_images: bool = False
