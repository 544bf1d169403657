"""The summary of a run: the content of ``summary.json``, with its writer and reader."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.model.sources import Kind
from fedhello.privacy.ledger import guarantee
from fedhello.runs.formats import write_evaluation, write_head
from fedhello.runs.heads import HeadChange

FORMAT = 1
"""Format of ``summary.json``; it rises with changes that earlier versions of fedhello cannot read."""

OWN_ENDS = ("train.stop", "train.target")
"""Keys by which a run ends before its last round."""

Number = int | float


def _with_what_json_lacks(values: Any) -> Any:
    """Return scores with null replaced by the numbers that JSON cannot hold, NaN and infinity."""
    if not isinstance(values, Mapping):
        return values
    more = values.get("more") or {}
    loss = math.nan if values.get("loss") is None else values["loss"]
    return {**values, "loss": loss, "more": {k: math.nan if v is None else v for k, v in more.items()}}


Scores = Annotated[Evaluation, PlainSerializer(write_evaluation), BeforeValidator(_with_what_json_lacks)]
Change = Annotated[HeadChange, PlainSerializer(write_head)]


class _Part(BaseModel):
    """Base class; unknown keys of later versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class TierSummary(_Part):
    """One tier of a run; peaks are maxima, seconds and bytes means per client and round; None: not measured.

    Attributes:
        budget: The tier's limits, by name.
        over_budget: How often a client exceeded its memory budget.
        clients: Number of clients.
        participations: Number of updates that counted.
        blocks_trained: Per block, how often it was trained; length L.
        predicted_peak_bytes: Predicted peak of a step, above the loaded model.
        predicted_memory_bytes: ``predicted_peak_bytes`` plus the reserve.
        measured_peak_bytes: Measured peak of a step, above the loaded model.
        measured_process_bytes: Measured growth of the process.
        saved_bytes: Bytes saved for backward.
        seconds: Seconds of training.
        bytes_up: Bytes sent.
        bytes_down: Bytes received.
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
    """The heads of a run.

    Attributes:
        policy: ``model.head``.
        changes: One for each time that the head was solved, in order.
    """

    policy: str
    changes: tuple[Change, ...]


class SearchSummary(_Part):
    """Results of the server's search for its step size.

    Attributes:
        rounds: Number of rounds with a search.
        taken: Number of rounds with a step.
        bytes_up_in_vain: Bytes that clients sent in rounds without a step.
    """

    rounds: int
    taken: int
    bytes_up_in_vain: int


class SelectionSummary(_Part):
    """The selected model.

    Attributes:
        round: Number of rounds after which it was reached; 0 is the start.
        rounds: Number of rounds of the run.
    """

    round: int
    rounds: int


class RougeSummary(_Part):
    """ROUGE-L of a language model's answers against the references, 0 … 1.

    Attributes:
        before: Mean before training.
        after: Mean after training.
        samples: Number of answers.
    """

    before: float
    after: float
    samples: int


@dataclass(frozen=True)
class KeyChange:
    """A key that changed where a run went on.

    Attributes:
        key: Its dotted name.
        round: How many rounds had finished.
        before: Its value in the rounds before.
        after: Its value in the rounds from there on.
    """

    key: str
    round: int
    before: float
    after: float


class Summary(_Part):
    """The summary of a run, as in ``summary.json``; see docs/reference/run-folder.md.

    Attributes:
        format: Format of the file; that of 0.1.0, which writes none, is 1.
        status: How the run ended: finished, interrupted, failed, stopped by a callback, or saved by hand.
        method: Name of the method.
        seed: ``run.seed``.
        rounds: Number of committed rounds.
        metric: The metric of the accuracies.
        start: Test accuracy before training, 0 … 1; None for a state saved without its start.
        start_scores: All test scores before training.
        final_scores: All test scores of the returned model; None if it was not scored.
        final: Test accuracy of the returned model; None if it was not scored.
        mean_last_5: Mean test accuracy over the last five scored rounds.
        best_on_validation: Test accuracy of the scored round that was best on the validation data.
        best_round: Index of that round, from 0.
        bytes_up: Bytes that all clients sent.
        bytes_down: Bytes that all clients received.
        head: The changes of the head.
        search: Results of the server's search for its step size; None without a search.
        selection: The selected model; None without model selection.
        rejections: Reason → number of replies that did not count.
        failed_attempts: Number of failed attempts at rounds.
        flags: Deviations of aggregation and scoring from the settings, each once.
        wall_seconds: Wall seconds of the whole run.
        train_seconds: Seconds of the clients' training, added up.
        evaluation_seconds: Seconds of all evaluations.
        energy_joules: Energy that the machine took during the run; None if it was not measured in all of it.
        samples: Number of samples that clients trained on, counted each time.
        samples_per_second: Samples per second of the clients' training.
        tiers: The summary of each tier.
        personal_heads: Whether clients keep their own heads.
        model: The foundation model.
        model_kind: Task and input of the model.
        pooling: The pooling of the features; 0.1.0 has only ``native``.
        labels: Names of the classes.
        notes: Notes for the user.
        versions: Versions of the packages that a result depends on.
        error: The error of a failed run.
        changes: Keys that changed where the run was resumed.
        stopped: By what a run with the status ``stopped`` was stopped, and after which round.
        domains: Test accuracy within each domain.
        forgotten: Clients that were removed from the head afterwards.
        weights: Digest of the frozen weights; None for older runs without it.
        rouge_l: ROUGE-L of a language model's answers.
        privacy: The ledger of differential privacy, see ``fedhello.privacy.ledger.write_ledger``; None without it.

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
    energy_joules: float | None = None
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
    changes: tuple[KeyChange, ...] = ()
    stopped: str | None = None
    domains: dict[str, float] = {}
    forgotten: tuple[int, ...] = ()
    weights: str | None = None
    rouge_l: RougeSummary | None = None
    privacy: dict[str, Any] | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Summary":
        """Return the summary in the values of ``summary.json``, after checking them.

        Args:
            values: The values in ``summary.json``.

        Raises:
            RunFolderError: If they are not a summary, or a later version of fedhello wrote them in a newer format.
        """
        if not isinstance(values, Mapping):
            raise RunFolderError(f"expected the summary of a run, a JSON object; found a {type(values).__name__}")
        written = values.get("format", FORMAT)
        if isinstance(written, int) and written > FORMAT:
            raise RunFolderError(
                f"expected a summary of format {FORMAT} or earlier; found {written}. Use a later version of fedhello."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RunFolderError(f"expected the summary of a run; {' '.join(str(error).split())[:200]}") from error

    @property
    def ended(self) -> bool:
        """Whether the run came to its own end: its last round, or ``train.stop`` or ``train.target``."""
        by_itself = any(key in (self.stopped or "") for key in OWN_ENDS)
        return self.status == "finished" or (self.status == "stopped" and by_itself)

    @property
    def guarantee(self) -> str | None:
        """The guarantee of differential privacy as a sentence; None without it."""
        return None if self.privacy is None else guarantee(self.privacy)

    def to_dict(self) -> dict[str, Any]:
        """Return the values of ``summary.json``; ``privacy`` only with differential privacy."""
        return self.model_dump(mode="json", exclude={"privacy"} if self.privacy is None else None)

    def but(self, **values: Any) -> "Summary":
        """Return a copy with some values replaced; they are not checked.

        Args:
            values: New values by attribute name.
        """
        return self.model_copy(update=values)
