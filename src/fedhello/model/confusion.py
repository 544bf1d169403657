"""Confusion matrices: how often samples of each class were predicted as which class, and scores of each class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int, int]
"""True class, predicted class, number of samples."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        label: The class's name.
        samples: Number of samples of the class.
        predicted: Number of samples that were predicted as the class.
        recall: Share of the class's samples that were predicted as the class, the accuracy within the class; None
            without samples.
        precision: Share of the samples predicted as the class that are of the class; None without predictions.
        f1: Harmonic mean of recall and precision, 2·hits/(samples + predicted); None if both numbers are 0.
    """

    label: str
    samples: int
    predicted: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often samples of each class were predicted as which class.

    Attributes:
        labels: The classes' names.
        cells: The cells that are not 0, ordered by true, then predicted class.

    Example:
        >>> found = fh.ConfusionMatrix.of([0, 0, 1], [0, 1, 1], ["fruit", "metal"])
        >>> found.cells, found.per_class[0].recall, found.mistakes
        (((0, 0, 1), (0, 1, 1), (1, 1, 1)), 0.5, ((0, 1, 1),))
    """

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(
        cls,
        true: Sequence[int] | NDArray[np.int64],
        predicted: Sequence[int] | NDArray[np.int64],
        labels: Sequence[str],
    ) -> "ConfusionMatrix":
        """Count pairs of the true and the predicted class.

        Args:
            true: The number of each sample's class.
            predicted: The number of the class that it was predicted as.
            labels: The classes' names.
        """
        pairs, counts = np.unique(np.stack([true, predicted], axis=1), axis=0, return_counts=True)
        cells = ((int(y), int(p), int(n)) for (y, p), n in zip(pairs, counts, strict=True))
        return cls(tuple(labels), tuple(cells))

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(n for _, _, n in self.cells)

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """The scores of each class, in the order of ``labels``."""
        samples: Counter[int] = Counter()
        predicted: Counter[int] = Counter()
        hits: Counter[int] = Counter()
        for y, p, n in self.cells:
            samples[y] += n
            predicted[p] += n
            hits[y] += n * (y == p)
        return tuple(
            ClassScore(
                label=label,
                samples=samples[c],
                predicted=predicted[c],
                recall=_share(hits[c], samples[c]),
                precision=_share(hits[c], predicted[c]),
                f1=_share(2 * hits[c], samples[c] + predicted[c]),
            )
            for c, label in enumerate(self.labels)
        )

    @property
    def mistakes(self) -> tuple[Cell, ...]:
        """The cells of wrong predictions, the largest first."""
        wrong = [cell for cell in self.cells if cell[0] != cell[1]]
        return tuple(sorted(wrong, key=lambda cell: (-cell[2], cell)))

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready, as ``fedhello evaluate --per-class --json`` prints it."""
        return {"per_class": [asdict(one) for one in self.per_class], "confusion": list(self.cells)}

    def matrix(self) -> NDArray[np.int64]:
        """Return the whole matrix, shape (C, C): true classes are rows."""
        found = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        for y, p, n in self.cells:
            found[y, p] = n
        return found

    def accuracy_at(self, mix: Sequence[float] | NDArray[np.float64]) -> float | None:
        """Return the accuracy on samples of another mix of classes, Σ_c p(c)·recall(c).

        It assumes that samples of a class are alike wherever they are. Classes without samples here do not count.

        Args:
            mix: For each class its number or share of samples.

        Returns:
            The accuracy; None if no class of the mix has samples here.

        Example:
            >>> ConfusionMatrix.of([0, 0, 1], [0, 1, 1], ["fruit", "metal"]).accuracy_at([1, 3])
            0.875
        """
        known = [(w, score.recall) for w, score in zip(mix, self.per_class, strict=True) if score.recall is not None]
        total = float(sum(w for w, _ in known))
        return sum(w * recall for w, recall in known) / total if total > 0 else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
