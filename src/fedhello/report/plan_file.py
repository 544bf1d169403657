"""``plan.json``: a run's plan and its start, written before the first round, so that its page can say why it is so."""

import json
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter

from fedhello.errors import RunFolderError
from fedhello.notes import logger
from fedhello.report.planning import make_plan
from fedhello.runs.callbacks import Callback
from fedhello.runs.files import write_whole
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import read_evaluation, read_head, write_evaluation, write_head
from fedhello.runs.loop import RunStart
from fedhello.runs.summarise import metric_of
from fedhello.session import Session

NAME = "plan.json"

FORMAT = 1
"""Format of the file; it rises with changes that earlier versions cannot read."""


class _Point(BaseModel):
    memory_bytes: float
    relative_flops: float
    upload_bytes: float


class _Example(BaseModel):
    picture: str
    reasons: list[str]


class _Tier(BaseModel):
    tier: int
    budget: dict[str, float]
    takes_part: bool
    blocks: tuple[int, int] | None = None
    example: _Example | None = None
    needs: _Point | None = None
    fraction: dict[str, float] | None = None
    front: list[_Point] | None = None


class PlanFile(Callback):
    """Writes ``plan.json`` when a run starts or is taken up again.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_start(self, session: Session, start: RunStart) -> None:
        """Write the plan without its clients, which ``clients.json`` lists, and the scores before training."""
        try:
            plan = make_plan(session).to_dict()
        except Exception as error:  # a method that is not the library's may refuse to draw for a plan; the run goes on
            logger.warning("no %s: the plan cannot be made: %s", NAME, error)
            return
        del plan["clients"]
        values = plan | {
            "format": FORMAT,
            "metric": metric_of(session),
            "start": {
                "validation": write_evaluation(start.validation),
                "test": write_evaluation(start.test),
                "head": None if start.head is None else write_head(start.head),
                "classes": _test_classes(session),
            },
        }
        write_whole(self._folder.path / NAME, json.dumps(values) + "\n")


def _test_classes(session: Session) -> dict[str, int] | None:
    """Return the number of test samples of each class; None for a language model."""
    if not session.model.head_names:
        return None
    counts = np.bincount(session.server.test.labels, minlength=len(session.labels))
    return {name: int(n) for name, n in zip(session.labels, counts, strict=True)}


def read_plan(folder: RunFolder) -> dict[str, Any] | None:
    """Return the content of a run's ``plan.json``; None if there is none, as of runs of 0.2.0.

    Raises:
        RunFolderError: If it is not valid, or a later version of fedhello wrote it in a newer format.
    """
    file = folder.path / NAME
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        written = found["format"]
        if isinstance(written, int) and written <= FORMAT:
            _check(found)
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"expected the plan of a run in {file}; {' '.join(str(error).split())[:200]}") from error
    raise RunFolderError(
        f"expected a plan of format {FORMAT} or earlier in {file}; found {written!r}. Use a later fedhello."
    )


def _check(found: Any) -> None:
    """Check what pages read of a plan.

    Raises:
        ValueError: If a value is not valid, as do KeyError and TypeError if it is missing or of another kind.
    """
    start = found["start"]
    for data in ("validation", "test"):
        read_evaluation(start[data])
    if start.get("head") is not None:
        read_head(start["head"])
    TypeAdapter(dict[str, int] | None).validate_python(start.get("classes"))
    TypeAdapter(list[_Tier]).validate_python(found["tiers"])
    TypeAdapter(int).validate_python(found["blocks"])
