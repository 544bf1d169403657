"""From the configuration's data section to a data set, its split and every client's share."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedhello.config.partitions import Dirichlet, Files, Iid, Natural, OwnPartition, Pathological
from fedhello.config.schema import DataConfig
from fedhello.data import partition, sources
from fedhello.data.dataset import DataSet, draw, identity
from fedhello.data.memory import MEMORY
from fedhello.data.split import Split, stratified_split
from fedhello.data.tables import Source
from fedhello.errors import DataError
from fedhello.randomness import generator


def load_data(config: DataConfig, classes: Sequence[str] | None = None, source: Source | None = None) -> DataSet:
    """Read the configured data set.

    Args:
        config: The configuration.
        classes: The names of all classes, where the data are one client's; None takes those that occur.
        source: Where they are, if not where ``data.name`` says.

    Raises:
        DataError: If it cannot be read, or is no data set to train and test on.
        MissingExtraError: If a package that it needs is not installed.
    """
    data = sources.load(
        config.name,
        config.columns,
        split=config.split,
        validation=config.validation if isinstance(config.validation, str) else None,
        test=config.test if isinstance(config.test, str) else None,
        file_per_client=config.partition.kind == "files",
        deduplicate=config.deduplicate,
        skip_bad_images=config.on_bad_image == "skip",
        classes=classes,
        source=source,
    )
    return draw(data, config.samples, config.held_out_samples)


def split_data(config: DataConfig, data: DataSet) -> Split:
    """Split a data set into what clients hold and what the server holds; parts that it names stay as they are.

    Raises:
        DataError: If there are too few samples.
    """
    return stratified_split(
        data.labels,
        validation=config.validation if isinstance(config.validation, float) else data.parts["validation"],
        test=config.test if isinstance(config.test, float) else data.parts["test"],
        proxy=config.proxy,
        public=config.public if isinstance(config.public, int) else 0,
        names=data.label_names,
    )


def partition_data(config: DataConfig, data: DataSet, split: Split, seed: int) -> list[np.ndarray]:
    """Return the positions, in the whole data set, of each client's samples.

    Raises:
        DataError: If a client would have none, or they do not fit the partition.
    """
    rng = generator(seed, "partition")
    labels, how, clients = data.labels[split.train], config.partition, config.clients
    match how:
        case Iid():
            parts = partition.iid(len(labels), clients, rng)
        case Dirichlet():
            parts = partition.dirichlet(labels, clients, how.alpha, how.minimum, rng)
        case Pathological():
            parts = partition.pathological(labels, clients, how.classes_per_client, how.minimum, rng, data.label_names)
        case Natural():
            parts = partition.natural([data.groups[i] for i in split.train], clients, rng)
        case Files():
            groups = [data.groups[i] for i in split.train]
            parts = partition.by_group(groups, clients, in_memory=config.name == MEMORY)
        case OwnPartition():
            parts = partition.own(how.kind, labels, clients, rng, how.options)
    empty = [k for k, part in enumerate(parts) if len(part) == 0]
    if empty:
        raise DataError(f"expected every client to have a sample; clients {empty} have none. Lower data.clients.")
    return [split.train[part] for part in parts]


def public_data(config: DataConfig, data: DataSet) -> DataSet | None:
    """Read the data set that ``data.public`` names, without its labels; None where it is a number.

    Raises:
        DataError: If it cannot be read, or overlaps what clients hold or the server holds otherwise.
    """
    if isinstance(config.public, int):
        return None
    columns, skip = replace(config.columns, group=None), config.on_bad_image == "skip"
    found = sources.load(config.public, columns, skip_bad_images=skip, labelled=False)
    if found.kind != data.kind:
        raise DataError(f"expected data.public to hold {data.kind}, as data.name does; it holds {found.kind}")
    others = {identity(sample, data.kind) for sample in data.inputs}
    common = [sample for sample in found.inputs if identity(sample, found.kind) in others]
    if common:
        raise DataError(
            f"expected data.public to be disjoint from what is trained on, scored or tested; {len(common)} of its "
            f"{len(found)} samples are there too, for example {str(common[0])[:60]!r}. Take them out, or set "
            "data.public to a number."
        )
    return found
