"""``confusion.json``: the confusion matrices of a run on its test data, before training and of its model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedhello.errors import RunFolderError
from fedhello.model.confusion import Cell, ConfusionMatrix
from fedhello.model.evaluation import Evaluation
from fedhello.runs.loop import RoundRecord

FORMAT = 1
"""Format of the file; it rises with changes that earlier versions cannot read."""

NAME = "confusion.json"

NO_MATRIX = (
    "expected a confusion matrix, which classifiers with one model and a shared head have; there is none for this run: "
    "it leads to several models, its clients keep their own heads, it is of a language model, or its folder is of an "
    "earlier version or of a run that was not scored at its end. Evaluate it on data: fedhello evaluate RUN --data FILE"
)
"""What is said where scores by class or by client are asked for and there are none."""


@dataclass(frozen=True)
class Confusion:
    """The confusion matrices of a run on its test data; either is None if it was not scored.

    Attributes:
        before: Before training.
        after: Of the run's model.
    """

    before: ConfusionMatrix | None
    after: ConfusionMatrix | None

    @classmethod
    def of(cls, start: Evaluation | None, end: Evaluation | None) -> "Confusion":
        """Return those of two evaluations; none if the end is scored without, as the mean over several models is."""
        before = None if start is None else start.confusion
        return cls(before, None) if end is None else cls(before if end.confusion else None, end.confusion)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names; empty without a matrix."""
        one = self.after or self.before
        return () if one is None else one.labels

    def to_dict(self) -> dict[str, Any]:
        """Return it as the content of ``confusion.json``."""
        return {
            "format": FORMAT,
            "labels": list(self.labels),
            "split": "test",
            "before": write_cells(self.before),
            "after": write_cells(self.after),
        }


def write_cells(matrix: ConfusionMatrix | None) -> list[Cell] | None:
    """Return the cells of a matrix as they are in files."""
    return None if matrix is None else list(matrix.cells)


def read_cells(cells: Any, labels: tuple[str, ...]) -> ConfusionMatrix | None:
    """Return a matrix from its cells in a file.

    Raises:
        ValueError: If they are not the cells of a matrix over these classes.
    """
    if cells is None:
        return None
    found = TypeAdapter(tuple[Cell, ...]).validate_python(cells)
    if any(not (0 <= y < len(labels) and 0 <= p < len(labels) and n > 0) for y, p, n in found):
        raise ValueError(f"a cell is not within the {len(labels)} classes")
    return ConfusionMatrix(labels, found)


def stored_matrices(cells: Any, labels: tuple[str, ...]) -> tuple[ConfusionMatrix | None, ConfusionMatrix | None]:
    """Return the matrices in a checkpoint, before training and after its last round; 0.2.0 stores none."""
    before, after = (None, None) if cells is None else (read_cells(one, labels) for one in cells)
    return before, after


def with_matrix(records: Sequence[RoundRecord], matrix: ConfusionMatrix | None) -> list[RoundRecord]:
    """Return the records of rounds with the confusion matrix of the last one that did not fail."""
    found = list(records)
    last = max((i for i, one in enumerate(found) if one.report.failed is None), default=None)
    if last is not None and (test := found[last].test) is not None:
        found[last] = replace(found[last], test=replace(test, confusion=matrix))
    return found


def without_matrices(record: RoundRecord) -> RoundRecord:
    """Return the record of a round without its matrices: a run keeps only those of its last round."""
    if record.test is None or record.validation is None:
        return record
    test, validation = (replace(score, confusion=None) for score in (record.test, record.validation))
    return replace(record, test=test, validation=validation)


def read_confusion(folder: Path) -> Confusion | None:
    """Read the confusion matrices in the folder of a run.

    Returns:
        The matrices; None if the run has no such file: it has not ended, has several models or personal heads, is of a
        language model, or of 0.2.0 or earlier.

    Raises:
        RunFolderError: If the file is damaged, or a later version of fedhello wrote it in a newer format.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found["format"], int) or found["format"] > FORMAT:
            raise ValueError(f"it has format {found['format']!r}; this version of fedhello reads {FORMAT} or earlier")
        labels = TypeAdapter(tuple[str, ...]).validate_python(found["labels"])
        return Confusion(read_cells(found["before"], labels), read_cells(found["after"], labels))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise RunFolderError(f"expected confusion matrices in {file}; {said}") from error
