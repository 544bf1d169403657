"""Split a data set, once and for all runs alike, into what clients hold and what the server holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhello.errors import DataError


@dataclass(frozen=True)
class Split:
    """Indices of five disjoint parts of a data set; each ascending.

    Attributes:
        train: What is partitioned over the clients.
        validation: For choosing, on the server.
        test: For reporting, on the server.
        proxy: For Fisher scores, on the server.
        public: For distillation, on the server; labels are not used.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    proxy: np.ndarray
    public: np.ndarray


def class_name(c: int, names: Sequence[str]) -> str:
    """Call a class by its name where names are known, and by its number otherwise."""
    return repr(names[c]) if names else str(c)


def stratified_split(
    labels: np.ndarray,
    *,
    validation: float,
    test: float,
    proxy: int,
    public: int = 0,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Split:
    """Split by label, so that each part has the classes in about the whole's proportions.

    Args:
        labels: Shape (n,).
        validation: Share of the samples, in (0, 1).
        test: Share of the samples, in (0, 1).
        proxy: Number of samples ≥ 0 that the server keeps for Fisher scores.
        public: Number of samples ≥ 0 that the server keeps for distillation.
        names: The classes' names, for messages.
        seed: Not the run's: the split stays the same for all seeds, so that runs are comparable.

    Raises:
        DataError: If there are too few samples, or a class would be absent from training.
    """
    from sklearn.model_selection import train_test_split

    n, classes = len(labels), len(np.unique(labels))
    sizes = {"test": round(test * n), "validation": round(validation * n), "proxy": proxy, "public": public}
    rest = np.arange(n)
    parts: dict[str, np.ndarray] = {}
    for name, size in sizes.items():
        if size == 0 and name in ("proxy", "public"):
            parts[name] = np.array([], dtype=int)
            continue
        if size < classes or len(rest) - size < classes:
            raise DataError(
                f"expected enough samples for {classes} classes in each part; {n} samples give {size} for {name} "
                f"and leave {len(rest) - size}. Add data, or change data.{name}."
            )
        smallest = int(np.bincount(labels[rest]).min())
        if smallest < 2:
            rare = int(np.bincount(labels[rest]).argmin())
            raise DataError(
                "expected every class to have a sample for training beside those held out; class "
                f"{class_name(rare, names)} has {int((labels == rare).sum())} in all. Add samples or leave it out."
            )
        rest, parts[name] = train_test_split(rest, test_size=size, random_state=seed, stratify=labels[rest])
    absent = sorted(set(range(classes)) - set(labels[rest].tolist()))
    if absent:
        listed = ", ".join(class_name(c, names) for c in absent)
        raise DataError(f"expected every class in the training data; {listed} have samples elsewhere only")
    return Split(train=np.sort(rest), **{name: np.sort(part) for name, part in parts.items()})
