"""A run that has ended, as its folder has it: its figures, its rounds and its model, to look at and to use."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from fedhello.config.schema import Config
from fedhello.errors import ConfigError, MissingExtraError, RunFolderError
from fedhello.model import exports
from fedhello.model.adapter import LoraModel
from fedhello.notes import logger
from fedhello.results.inference import infer
from fedhello.results.trained import Trained, load_trained, rescore
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary
from fedhello.runs.tracking import round_metrics
from fedhello.session import Session
from fedhello.setup.model import NAMED, Objects, load_model
from fedhello.setup.prepare import prepare

if TYPE_CHECKING:
    import pandas


class Rounds(Sequence[RoundRecord]):
    """The rounds of a run, in their order, without attempts that failed.

    Example:
        >>> found = fh.run("my.yaml").rounds
        >>> len(found), found[-1].report.round, found.to_dicts()[0]["round"]
        (2, 1, 1)
    """

    def __init__(self, records: Sequence[RoundRecord]) -> None:
        self._records = tuple(record for record in records if record.report.failed is None)

    @overload
    def __getitem__(self, index: int) -> RoundRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "Rounds": ...
    def __getitem__(self, index: int | slice) -> "RoundRecord | Rounds":
        """Return a round, or some."""
        return Rounds(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._records)

    def __iter__(self) -> Iterator[RoundRecord]:
        """Yield them in their order."""
        return iter(self._records)

    def to_dicts(self) -> list[dict[str, float]]:
        """Return the numbers of each round by name, those that tracking tools see, and ``round`` from 1."""
        return [{"round": record.report.round + 1, **round_metrics(record)} for record in self]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return ``to_dicts`` as a table with one line per round.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("a table of rounds needs pandas; run: pip install 'fedhello[pandas]'") from error
        return pandas.DataFrame(self.to_dicts())


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one input.

    Attributes:
        input: As it was given.
        label: The class with the largest probability; None of a language model.
        probability: Its probability, 0 … 1; likewise.
        probabilities: Label → probability, where that was asked for.
        answer: A language model's; None of a classifier.

    Example:
        >>> one = fh.run("my.yaml").predict(["apple number 3"], probabilities=True)[0]
        >>> one.input, sorted(one.probabilities), 0.5 <= one.probability <= 1
        ('apple number 3', ['fruit', 'metal'], True)
    """

    input: str
    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None
    answer: str | None = None


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended.

    Attributes:
        path: Its folder; see docs/reference/run-folder.md.
        given: The model and the data that it was of, where these were objects.
        session: What ran, where it was this process; its model serves then, and is not loaded anew.

    Example:
        >>> trained = fh.run("my.yaml")
        >>> trained.summary.status, type(trained.peft_model()).__name__
        ('finished', 'PeftModelForSequenceClassification')
    """

    path: Path
    given: Objects = NAMED
    session: Session | None = field(default=None, repr=False, compare=False)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def config(self) -> Config:
        """What was run, every key resolved."""
        return self._folder.config()

    @cached_property
    def summary(self) -> Summary:
        """The run in numbers.

        Raises:
            RunFolderError: If the run has not ended.
        """
        return Summary.read(self._folder.summary())

    @cached_property
    def rounds(self) -> Rounds:
        """What each round came to."""
        return Rounds(self._folder.records())

    def predict(
        self,
        inputs: Sequence[str],
        *,
        pairs: Sequence[str] = (),
        probabilities: bool = False,
        model: str | None = None,
        client: int | None = None,
    ) -> list[Prediction]:
        """Classify texts, pairs of texts or image files, or let a language model answer prompts.

        Args:
            inputs: Texts, prompts, or paths of images.
            pairs: The second texts, for a model of pairs.
            probabilities: Whether those of all classes are wanted.
            model: Which model, of a run that leads to several.
            client: Whose head, where clients keep their own.

        Raises:
            ConfigError: If second texts, model or client are missing, or have no meaning here.
            DataError: If an image cannot be decoded.
        """
        if isinstance(inputs, str) or not all(isinstance(one, (str, Path)) for one in (*inputs, *pairs)):
            raise ConfigError("expected a list of texts, prompts or paths of images to predict; found something else")
        if not inputs:
            return []
        trained = self._trained(model, client)
        found, notes = infer(
            trained.config, trained.labels, trained.model, [str(one) for one in inputs], pairs, probabilities
        )
        _log(notes)
        return [Prediction(**row) for row in found]

    def evaluate(self) -> dict[str, Any]:
        """Score the run's model, or the mean over its models, on its validation and test data, as the run did.

        Returns:
            ``validation`` and ``test``, each with ``accuracy`` (0 … 1), ``loss`` (nats) and more, and ``samples``.
        """
        session = self.session
        if session is None:
            given = self.given if self.given.model is None else replace(self.given, model=self._model)
            session = prepare(self.config, given)
        found, notes = rescore(self._folder, session)
        _log(notes)
        return found

    def peft_model(self, *, model: str | None = None, client: int | None = None) -> Any:
        """Return the foundation model with the adapter as a PEFT model, whose head is in place where PEFT has one.

        It is the one model in memory: ``predict`` and ``evaluate`` of this run use it, too, and write into it.

        Args:
            model: Which model, of a run that leads to several.
            client: Whose head, where clients keep their own.
        """
        return self._trained(model, client).model.peft

    def export(
        self,
        out: str | Path | None = None,
        *,
        form: str | None = None,
        merge: bool = False,
        model: str | None = None,
        client: int | None = None,
    ) -> Path:
        """Write files that PEFT, transformers or sentence-transformers load.

        Args:
            out: A new folder; ``export`` in the run's unless given.
            form: ``adapter`` (unless given), ``merged`` or ``sentence-transformers``.
            merge: The same as ``form="merged"``.
            model: Which model, of a run that leads to several.
            client: Whose head, where clients keep their own.

        Raises:
            ConfigError: If there is no such form.
            RunFolderError: If the folder exists or cannot be written.
        """
        wanted, target = exports.asked_form(form, merge), Path(out or self.path / "export")
        if target.exists():
            raise RunFolderError(f"expected a new folder to export to; {target} exists. Give another one.")
        trained = self._trained(model, client)
        # What is merged is of no use afterwards, and this model may be the session's, or the user's own.
        exported = trained.model if wanted == "adapter" else copy.deepcopy(trained.model)
        try:
            exports.export(exported, target, wanted, trained.config.data.max_length)
        except OSError as error:
            raise RunFolderError(f"expected to write {target}; {error.strerror or error}") from error
        return target

    @cached_property
    def _model(self) -> LoraModel:
        """The model in memory, which is loaded once; what it holds is written anew for each use."""
        if self.session is not None:
            return self.session.model
        summary = self._folder.summary()
        return load_model(self.config, summary["labels"], summary["model_kind"], self.given)

    def _trained(self, model: str | None, client: int | None) -> Trained:
        """Return the model with the adapter and the head that are asked for, whatever it held before."""
        trained = load_trained(self._folder, model, client, self._model)
        _log(trained.notes)
        return trained


def _log(notes: Iterable[str]) -> None:
    for note in notes:
        logger.warning(note)
