"""The kinds of ``data.partition``: how samples are split over clients."""

from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Discriminator, Field, Tag

from fedhello.config.section import Named, Section
from fedhello.data import partition
from fedhello.data.partition import KINDS, Parts
from fedhello.data.settings import Pool


class Iid(Section):
    """Samples dealt at random."""

    kind: Literal["iid"]

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Deal the samples; see ``fedhello.data.settings.Partition``."""
        return partition.iid(len(pool.labels), clients, rng)


class Dirichlet(Section):
    """Label proportions drawn from Dirichlet(alpha)."""

    kind: Literal["dirichlet"]
    alpha: float = Field(0.5, gt=0)
    minimum: int = Field(10, ge=1)

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Deal the samples; see ``fedhello.data.settings.Partition``."""
        return partition.dirichlet(pool.labels, clients, self.alpha, self.minimum, rng)


class Pathological(Section):
    """Exactly k classes per client."""

    kind: Literal["pathological"]
    classes_per_client: int = Field(2, ge=1)
    minimum: int = Field(10, ge=1)

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Deal the samples; see ``fedhello.data.settings.Partition``."""
        return partition.pathological(
            pool.labels, clients, self.classes_per_client, self.minimum, rng, pool.label_names
        )


class Natural(Section):
    """One client per value of a column of the data, such as domain, user or source."""

    kind: Literal["natural"]
    column: str

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Deal the samples; see ``fedhello.data.settings.Partition``."""
        return partition.natural(pool.groups, clients, rng)


class Files(Section):
    """One client per file of the folder that ``data.name`` names, in the order of the files' names."""

    kind: Literal["files"]

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Deal the samples; see ``fedhello.data.settings.Partition``."""
        return partition.by_group(pool.groups, clients, in_memory=pool.in_memory)


class OwnPartition(Named):
    """A user-defined partition and its options."""

    kind: str = Field(min_length=1)

    def deal(self, pool: Pool, clients: int, rng: np.random.Generator) -> Parts:
        """Deal the samples; see ``fedhello.data.settings.Partition``."""
        return partition.own(self.kind, pool.labels, clients, rng, self.options)


def _default_kind(value: object) -> object:
    """Use the kind of the default partition where none is named, so that one key can be overridden alone."""
    return {"kind": "pathological", **value} if isinstance(value, dict) else value


def _whose(value: object) -> str:
    """Return the kind of a built-in partition, and ``own`` for user-defined ones."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in KINDS else "own"


Partition = Annotated[
    Annotated[Iid, Tag("iid")]
    | Annotated[Dirichlet, Tag("dirichlet")]
    | Annotated[Pathological, Tag("pathological")]
    | Annotated[Natural, Tag("natural")]
    | Annotated[Files, Tag("files")]
    | Annotated[OwnPartition, Tag("own")],
    Discriminator(_whose),
    BeforeValidator(_default_kind),
]
