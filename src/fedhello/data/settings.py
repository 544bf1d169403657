"""Which data set is read, what the server keeps of it, and how the rest is split over clients."""

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
        in_memory: Whether groups are data sets that were handed over, and not files.
    """

    labels: np.ndarray
    groups: Sequence[str]
    label_names: Sequence[str]
    in_memory: bool = False


class Partition(Protocol):
    """How samples are split over clients."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Return the positions, in the pool, of each client's samples.

        Raises:
            DataError: If the samples do not fit the partition.
        """
        ...


@dataclass(frozen=True)
class DataSettings:
    """Which data set is read, and what becomes of it; ``data`` of docs/reference/configuration.md has the same names.

    Attributes:
        name: An embedded data set, a hub id, a file or a folder.
        columns: Which columns hold what.
        split: The only split that is read; None reads all.
        samples: The most samples that are used, drawn; None uses all.
        held_out_samples: Likewise of the parts that the data set names.
        clients: K.
        partition: Who gets what.
        validation: A share that the server keeps for choosing, or where that part is.
        test: A share that it keeps for reporting, or where that part is.
        proxy: How many samples it keeps for Fisher scores.
        public: How many it keeps for distillation, or where such data are.
        deduplicate: Whether equal samples count once.
        skip_bad_images: Whether images that cannot be decoded are left out with a note; else they are an error.
    """

    name: str
    partition: Partition
    columns: Columns = field(default_factory=lambda: UNNAMED)
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
