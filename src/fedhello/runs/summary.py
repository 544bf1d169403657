"""A run in numbers: what ``summary.json`` holds, with its one writer and one reader."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.model.sources import Kind
from fedhello.runs.formats import write_evaluation, write_head
from fedhello.runs.heads import HeadChange

FORMAT = 1
"""Of ``summary.json``; it rises whenever an earlier fedhello could not read the file."""

Number = int | float


def _with_what_json_lacks(values: Any) -> Any:
    """Return scores as they were written: JSON has no number that is not finite, and holds null instead."""
    if not isinstance(values, Mapping):
        return values
    more = values.get("more") or {}
    loss = math.nan if values.get("loss") is None else values["loss"]
    return {**values, "loss": loss, "more": {k: math.nan if v is None else v for k, v in more.items()}}


Scores = Annotated[Evaluation, PlainSerializer(write_evaluation), BeforeValidator(_with_what_json_lacks)]
Change = Annotated[HeadChange, PlainSerializer(write_head)]


class _Part(BaseModel):
    """What a later fedhello adds is kept as it is."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class TierSummary(_Part):
    """What one tier did; peaks are the largest seen, seconds and bytes means per client and round; None: not measured.

    Attributes:
        budget: The limits that it has, by name.
        over_budget: How often a client went over its budget of memory.
        clients: How many it has.
        participations: How many updates of its clients counted.
        blocks_trained: Per block, how often it was trained; length L.
        predicted_peak_bytes: Of a step, above the loaded model.
        predicted_memory_bytes: The same with what the process needs besides.
        measured_peak_bytes: Of a step, as measured.
        measured_process_bytes: By how much the process grew.
        saved_bytes: Held for the backward pass.
        seconds: Of training.
        bytes_up: Sent.
        bytes_down: Received.
    """

    budget: dict[str, Number]
    over_budget: int = 0
    clients: int = 0
    participations: int = 0
    blocks_trained: tuple[int, ...] = ()
    predicted_peak_bytes: Number | None = None
    predicted_memory_bytes: Number | None = None
    measured_peak_bytes: Number | None = None
    measured_process_bytes: Number | None = None
    saved_bytes: Number | None = None
    seconds: Number | None = None
    bytes_up: Number | None = None
    bytes_down: Number | None = None


class HeadSummary(_Part):
    """How the run's heads came about.

    Attributes:
        policy: ``model.head``.
        changes: One for each time that it was solved, in their order.
    """

    policy: str
    changes: tuple[Change, ...]


class SearchSummary(_Part):
    """What became of a server that searches for its step.

    Attributes:
        rounds: In how many rounds it searched.
        taken: In how many it took a step.
        bytes_up_in_vain: What clients sent in the others.
    """

    rounds: int
    taken: int
    bytes_up_in_vain: int


class SelectionSummary(_Part):
    """Which model is handed back.

    Attributes:
        round: The one after so many rounds; 0 is the start.
        rounds: Of how many.
    """

    round: int
    rounds: int


class RougeSummary(_Part):
    """How close a language model's answers are to the references, as ROUGE-L, 0 … 1.

    Attributes:
        before: Before training.
        after: After it.
        samples: Over how many answers.
    """

    before: float
    after: float
    samples: int


class Summary(_Part):
    """A run in numbers, as ``summary.json`` holds them; see docs/reference/run-folder.md.

    Attributes:
        format: Of the file; 0.1.0 wrote none, and is read as 1.
        status: How the run ended: finished, interrupted, failed, stopped by a callback, or saved by hand.
        method: Its name.
        seed: ``run.seed``.
        rounds: How many were committed.
        metric: What the accuracies are.
        start: Test accuracy before training, 0 … 1; None of a state that was saved without it.
        start_scores: All test scores before training.
        final_scores: All test scores after the last round; None where it was not scored.
        final: Test accuracy of what is handed back; None where the last round was not scored.
        mean_last_5: Over the last scored rounds.
        best_on_validation: Of the scored round that was best on the validation data.
        best_round: Which one that was, from 0.
        bytes_up: All that clients sent.
        bytes_down: All that they received.
        head: How the heads came about.
        search: Where the server searches for its step.
        selection: Where models are selected.
        rejections: Reason → how many replies did not count for it.
        failed_attempts: Attempts at rounds that were abandoned.
        flags: What aggregation and scoring did otherwise than asked, each once.
        wall_seconds: Of the whole run.
        train_seconds: Of the clients' training, added up.
        evaluation_seconds: Of all evaluations.
        samples: Samples that clients trained on, each as often as it was seen.
        samples_per_second: In the clients' training.
        tiers: What each tier did, and what it took.
        personal_heads: Whether clients keep heads of their own.
        model: The foundation model.
        model_kind: What it is for.
        pooling: How features are made; 0.1.0 knew ``native`` alone.
        labels: Names of the classes.
        notes: What a user should know.
        versions: Of the packages that a result depends on.
        error: What the run failed with.
        domains: Test accuracy within each domain.
        forgotten: Clients that were taken out of the head afterwards.
        weights: Digest of the frozen weights; None of runs that do not say.
        rouge_l: Of a language model's answers.

    Example:
        >>> summary = fh.run("my.yaml").summary
        >>> summary.status, summary.method, summary.metric, 0 <= summary.final <= 1
        ('finished', 'fed-hello', 'test accuracy', True)
    """

    format: int = FORMAT
    status: Literal["finished", "interrupted", "failed", "stopped", "saved"]
    method: str
    seed: int
    rounds: int
    metric: str
    start: float | None
    start_scores: Scores | None = None
    final_scores: Scores | None = None
    final: float | None
    mean_last_5: float | None
    best_on_validation: float | None
    best_round: int | None = None
    bytes_up: int
    bytes_down: int
    head: HeadSummary | None = None
    search: SearchSummary | None = None
    selection: SelectionSummary | None = None
    rejections: dict[str, int] = {}
    failed_attempts: int = 0
    flags: tuple[str, ...] = ()
    wall_seconds: float
    train_seconds: float
    evaluation_seconds: float = 0.0
    samples: int = 0
    samples_per_second: float | None = None
    tiers: tuple[TierSummary, ...]
    personal_heads: bool = False
    model: str = ""
    model_kind: Kind = "text-classification"
    pooling: str = "native"
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    error: str | None = None
    domains: dict[str, float] = {}
    forgotten: tuple[int, ...] = ()
    weights: str | None = None
    rouge_l: RougeSummary | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Summary":
        """Check what a file holds.

        Args:
            values: As ``summary.json`` has them.

        Raises:
            RunFolderError: If it is no summary, or one that a later fedhello wrote in another format.
        """
        if not isinstance(values, Mapping):
            raise RunFolderError(f"expected the summary of a run, a JSON object; found a {type(values).__name__}")
        written = values.get("format", FORMAT)
        if isinstance(written, int) and written > FORMAT:
            raise RunFolderError(
                f"expected a summary of format {FORMAT} or earlier; found {written}. Use a later fedhello."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RunFolderError(f"expected the summary of a run; {' '.join(str(error).split())[:200]}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``summary.json`` holds it."""
        return self.model_dump(mode="json")

    def but(self, **values: Any) -> "Summary":
        """Return the same with other values, which are not checked.

        Args:
            values: By the names of attributes.
        """
        return self.model_copy(update=values)
