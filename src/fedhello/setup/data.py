"""Read a data set, split it between server and clients, and partition it over the clients."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from fedhello.data import sources
from fedhello.data.dataset import DataSet, draw, identity
from fedhello.data.digest import DataDigest, PartDigest, digest_of
from fedhello.data.memory import MEMORY
from fedhello.data.settings import DataSettings, Pool
from fedhello.data.split import Split, stratified_split
from fedhello.data.tables import Source
from fedhello.errors import DataError
from fedhello.formatting import first_few
from fedhello.randomness import generator


def load_data(
    settings: DataSettings,
    classes: Sequence[str] | None = None,
    source: Source | None = None,
    only: Sequence[str] | None = None,
) -> DataSet:
    """Read a data set.

    Args:
        settings: The settings of the data set.
        classes: The names of all classes, for the data of a single client; None takes those that occur.
        source: The source of the data; None takes that of ``data.name``.
        only: The labels whose samples are used; None uses all.

    Raises:
        DataError: If it cannot be read, or cannot be trained and tested on.
        MissingExtraError: If a package that it needs is not installed.
    """
    data = sources.load(
        settings.name,
        settings.columns,
        encoding=settings.encoding,
        split=settings.split,
        validation=settings.validation if isinstance(settings.validation, str) else None,
        test=settings.test if isinstance(settings.test, str) else None,
        file_per_client=settings.partition.kind == "files",
        deduplicate=settings.deduplicate,
        skip_bad_images=settings.skip_bad_images,
        classes=classes,
        source=source,
        only=only,
    )
    return draw(data, settings.samples, settings.held_out_samples)


def split_data(settings: DataSettings, data: DataSet) -> Split:
    """Split a data set between clients and server; the data set's own validation and test parts are kept.

    Raises:
        DataError: If there are too few samples.
    """
    return stratified_split(
        data.labels,
        validation=data.parts["validation"] if isinstance(settings.validation, str) else settings.validation,
        test=data.parts["test"] if isinstance(settings.test, str) else settings.test,
        proxy=settings.proxy,
        public=settings.public if isinstance(settings.public, int) else 0,
        names=data.label_names,
    )


def partition_data(settings: DataSettings, data: DataSet, split: Split, seed: int) -> list[np.ndarray]:
    """Return the positions, in the whole data set, of each client's samples.

    Raises:
        DataError: If a client would have no sample, or the samples do not fit the partition.
    """
    groups = [data.groups[i] for i in split.train] if data.groups else []
    pool = Pool(data.labels[split.train], groups, data.label_names, in_memory=settings.name == MEMORY)
    parts = settings.partition.deal(pool, settings.clients, generator(seed, "partition"))
    empty = [k for k, part in enumerate(parts) if len(part) == 0]
    if empty:
        raise DataError(
            f"expected every client to have a sample; clients {first_few(empty)} have none. Lower data.clients."
        )
    return [split.train[part] for part in parts]


def public_data(settings: DataSettings, data: DataSet) -> DataSet | None:
    """Return the data set that ``data.public`` names, without its labels; None if it is a number.

    Raises:
        DataError: If it cannot be read, or overlaps the other data.
    """
    if isinstance(settings.public, int):
        return None
    columns, skip = replace(settings.columns, group=None), settings.skip_bad_images
    found = sources.load(settings.public, columns, encoding=settings.encoding, skip_bad_images=skip, labelled=False)
    if found.kind != data.kind:
        raise DataError(f"expected data.public to hold {data.kind}, as data.name does; it holds {found.kind}")
    others = {identity(sample, data.kind) for sample in data.inputs}
    common = [sample for sample in found.inputs if identity(sample, found.kind) in others]
    if common:
        raise DataError(
            f"expected data.public to be disjoint from the training, validation and test data; {len(common)} of its "
            f"{len(found)} samples are in both, for example {str(common[0])[:60]!r}. Remove them, or set data.public "
            "to a number."
        )
    return found


def data_digest(data: DataSet, split: Split, public: DataSet | None, with_train: bool) -> DataDigest:
    """Return the digest of a run's data.

    Args:
        data: The data set.
        split: Its parts; empty ones are left out.
        public: The data set that ``data.public`` names.
        with_train: Whether the clients' samples are this data set's, and may be told of.
    """
    positions = {part.name: getattr(split, part.name) for part in fields(split)}
    parts: dict[str, PartDigest] = {
        name: digest_of(data, there)
        for name, there in positions.items()
        if len(there) and (name != "train" or with_train)
    }
    if public is not None:
        parts["public"] = digest_of(public, np.arange(len(public)))
    return DataDigest(data.label_names, parts)
