"""Split a data set between clients and server, in the same way for all runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhello.errors import DataError
from fedhello.randomness import generator


@dataclass(frozen=True)
class Split:
    """Indices of five disjoint parts of a data set; each ascending.

    Attributes:
        train: Samples that are partitioned over the clients.
        validation: The server's samples for selection.
        test: The server's samples for reporting.
        proxy: The server's samples for Fisher scores.
        public: The server's samples for distillation; labels are not used.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    proxy: np.ndarray
    public: np.ndarray


def class_name(c: int, names: Sequence[str]) -> str:
    """Return the name of a class; its number if names are not given."""
    return repr(names[c]) if names else str(c)


def stratified_split(
    labels: np.ndarray,
    *,
    validation: float | np.ndarray,
    test: float | np.ndarray,
    proxy: int,
    public: int = 0,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Split:
    """Split by label, so that each part has about the same proportions of classes.

    Proxy and public data with fewer samples than classes are drawn regardless of class: Fisher scores and distillation
    do not need a sample of each class.

    Args:
        labels: Shape (n,).
        validation: Share, in (0, 1), of the samples outside given parts; or the positions of a given part.
        test: Share or positions, likewise.
        proxy: Number of samples ≥ 0 that the server keeps for Fisher scores.
        public: Number of samples ≥ 0 that the server keeps for distillation.
        names: The classes' names, for messages.
        seed: Seed of the split, not of the run: the split is the same for all runs, so that they are comparable.

    Raises:
        DataError: If there are too few samples, or a class would be absent from training.
    """
    from sklearn.model_selection import train_test_split

    parts: dict[str, np.ndarray] = {}
    shares: dict[str, float] = {}
    for name, part in (("test", test), ("validation", validation)):
        if isinstance(part, np.ndarray):
            parts[name] = part
        else:
            shares[name] = part
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate([[], *parts.values()]).astype(int))
    classes = np.unique(labels[rest])
    sizes = {name: round(share * len(rest)) for name, share in shares.items()} | {"proxy": proxy, "public": public}
    whole = rest
    for name, size in sizes.items():
        if size == 0 and name in ("proxy", "public"):
            parts[name] = np.array([], dtype=int)
            continue
        if name in ("proxy", "public") and size < len(np.unique(labels[rest])):
            parts[name] = _drawn(labels, rest, name, size, seed)
            rest = np.setdiff1d(rest, parts[name])
            continue
        _check_sizes(labels, whole, rest, name, size, names)
        rest, parts[name] = train_test_split(rest, test_size=size, random_state=seed, stratify=labels[rest])
    absent = sorted(set(classes.tolist()) - set(labels[rest].tolist()))
    if absent:
        listed = ", ".join(class_name(c, names) for c in absent)
        raise DataError(f"expected every class in the training data; {listed} have samples elsewhere only")
    return Split(train=np.sort(rest), **{name: np.sort(part) for name, part in parts.items()})


def _drawn(labels: np.ndarray, rest: np.ndarray, part: str, size: int, seed: int) -> np.ndarray:
    """Draw a part of the remaining samples, of which at least one per class remains.

    Raises:
        DataError: If there are too few samples.
    """
    shuffled = generator(seed, part).permutation(rest)
    kept = np.unique(labels[shuffled], return_index=True)[1]
    spare = np.delete(shuffled, kept)
    if size > len(spare):
        raise DataError(
            f"expected {size} samples for {part} beside one of each of {len(kept)} classes to train on; {len(rest)} "
            f"are left. Add data, or change data.{part}."
        )
    return spare[:size]


def _check_sizes(
    labels: np.ndarray, whole: np.ndarray, rest: np.ndarray, part: str, size: int, names: Sequence[str]
) -> None:
    """Check that the remaining samples are enough for a part with samples of each class.

    Raises:
        DataError: If they are not.
    """
    classes, counts = np.unique(labels[whole], return_counts=True)
    left = len(rest) - size
    if size < len(classes) or left < len(classes):
        raise DataError(
            f"expected enough samples for {len(classes)} classes in each part; {len(whole)} samples give {size} for "
            f"{part} and leave {left}. Add data, or change data.{part}."
        )
    remaining = np.bincount(labels[rest], minlength=int(classes.max()) + 1)[classes]
    if remaining.min() < 2:
        rare = int(remaining.argmin())
        raise DataError(
            "expected every class to have a sample for training beside those held out; class "
            f"{class_name(classes[rare], names)} has {counts[rare]} in all. Add samples or leave it out."
        )
