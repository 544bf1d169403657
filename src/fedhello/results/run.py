"""A run that has ended, read from its folder: its summary, its rounds and its model."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from safetensors import SafetensorError

from fedhello.config.schema import Config
from fedhello.config.settings import model_settings
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, MissingExtraError, RunFolderError
from fedhello.model import exports
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import Evaluation
from fedhello.notes import logger
from fedhello.results.forget import forget
from fedhello.results.inference import infer, score
from fedhello.results.trained import RunEvaluation, Trained, load_trained, rescore, scoring_session
from fedhello.runs.files import check_path
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import write_clients
from fedhello.runs.loop import RoundRecord
from fedhello.runs.progress import other_data
from fedhello.runs.runner import warn
from fedhello.runs.summary import Summary
from fedhello.runs.tracking import round_metrics
from fedhello.session import Session
from fedhello.setup.model import NAMED, Objects, load_model
from fedhello.setup.prepare import prepare

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")


class Rounds(Sequence[RoundRecord]):
    """The rounds of a run, in order, without failed attempts.

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
        """Return one round, or a slice."""
        return Rounds(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __len__(self) -> int:
        """Return the number of rounds."""
        return len(self._records)

    def __iter__(self) -> Iterator[RoundRecord]:
        """Yield the rounds in order."""
        return iter(self._records)

    def to_dicts(self) -> list[dict[str, float]]:
        """Return the numbers of each round by name, as in tracking tools, and ``round`` from 1."""
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
    """A model's prediction for one input.

    Attributes:
        input: The input.
        label: The class with the largest probability; None for a language model.
        probability: The probability of that class, 0 … 1; None for a language model.
        probabilities: Label → probability, if requested.
        answer: The answer of a language model; None for a classifier.

    Example:
        >>> one = fh.run("my.yaml").predict(["apple number 3"], probabilities=True)[0]
        >>> one.input, sorted(one.probabilities), 0.5 <= one.probability <= 1
        ('apple number 3', ['fruit', 'metal'], True)
    """

    input: Any
    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None
    answer: str | None = None


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended.

    Its values are read from the folder at each access, so they change when the run is resumed or forgets clients.

    Attributes:
        path: The run's folder; see docs/reference/run-folder.md.
        given: The model and the data of the run, if these were objects.
        session: The session, if the run took place in this process; its model is used instead of loading it again.

    Example:
        >>> trained = fh.run("my.yaml")
        >>> trained.summary.status, type(trained.peft_model()).__name__
        ('finished', 'PeftModelForSequenceClassification')
    """

    path: Path
    given: Objects = NAMED
    session: Session | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _read(self) -> dict[str, tuple[object, Any]]:
        return {}

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def config(self) -> Config:
        """The fully resolved configuration.

        Raises:
            RunFolderError: If this is not the folder of a run.
        """
        return self._current("config.yaml", lambda: stored_config(self.path))

    @property
    def summary(self) -> Summary:
        """The summary of the run.

        Raises:
            RunFolderError: If the run has not ended.
        """
        return self._current("summary.json", self._folder.summary)

    @property
    def rounds(self) -> Rounds:
        """The records of the rounds."""
        return self._current("rounds.jsonl", lambda: Rounds(self._folder.records()))

    @property
    def clients(self) -> list[dict[str, Any]]:
        """The clients, one object each, as in ``clients.json``; also of a run that goes on.

        Raises:
            RunFolderError: If their file is missing or not valid.
        """
        rows: list[dict[str, Any]] = write_clients(self._folder.clients())["clients"]
        return rows

    def _current(self, name: str, read: Callable[[], T]) -> T:
        """Return the content of a file of the folder; it is read again only if the file has changed."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return read()  # raises the error
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._read.get(name, (None,))[0] != stamp:
            self._read[name] = (stamp, read())
        value: T = self._read[name][1]
        return value

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        pairs: Sequence[str] = (),
        probabilities: bool = False,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> list[Prediction]:
        """Classify texts, pairs of texts, image files or tensors, or answer prompts with a language model.

        Args:
            inputs: Texts, prompts, or paths of images; for a plain module tensors or arrays, each one sample.
            pairs: The second texts, for a model of pairs.
            probabilities: Whether to return the probabilities of all classes.
            model: The name of the model, for a run with several models.
            client: The client whose head is used, if clients keep their own heads.
            changed_data: Go on although the tokenizer or image processor is not the run's, with a warning.

        Raises:
            ConfigError: If second texts, model or client are missing, or do not apply to this run.
            DataError: If a text is blank, an image cannot be decoded, or the tokenizer or image processor has changed.
        """
        tensors = self.config.data.kind == "tensors"
        texts = pairs if tensors else [*inputs, *pairs]
        if isinstance(inputs, str) or not all(isinstance(one, (str, Path)) for one in texts):
            raise ConfigError("expected a list of texts, prompts or paths of images to predict; found something else")
        if len(inputs) == 0:
            return []
        trained = self._trained(model, client, changed_data)
        found, notes = infer(
            trained.config,
            trained.labels,
            trained.model,
            list(inputs) if tensors else [str(one) for one in inputs],
            pairs,
            probabilities,
        )
        _log(notes)
        return [Prediction(**row) for row in found]

    @overload
    def evaluate(
        self,
        data: None = None,
        *,
        split: str | None = None,
        columns: Mapping[str, Any] | None = None,
        encoding: str | None = None,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> RunEvaluation: ...
    @overload
    def evaluate(
        self,
        data: Any,
        *,
        split: str | None = None,
        columns: Mapping[str, Any] | None = None,
        encoding: str | None = None,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> Evaluation: ...
    def evaluate(
        self,
        data: Any = None,
        *,
        split: str | None = None,
        columns: Mapping[str, Any] | None = None,
        encoding: str | None = None,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> Evaluation | RunEvaluation:
        """Evaluate the run's model on the run's own validation and test data, or on other data.

        Args:
            data: Data labelled with the names of the run's classes: a file, folder, embedded data set or hub id, or a
                data set in memory as in ``fedhello.prepare``. Every sample counts, including repeats. None takes the
                run's own data, and the mean over its models and over its clients' own heads; a warning is logged if
                they differ from the data on which the run was scored.
            split: The name of a split of ``data``.
            columns: ``text`` (one, or two for pairs), ``label``, ``image``, ``prompt`` or ``response`` → the column's
                name in ``data``, if it differs from the run's.
            encoding: Of tables that are not UTF-8, if it differs from the run's.
            model: The name of the model to evaluate on ``data``, for a run with several models.
            client: The client whose head is used, if clients keep their own heads.
            changed_data: Go on although the tokenizer or image processor is not the run's, with a warning.

        Returns:
            The scores on ``data``; without ``data``, those on the run's own validation and test data.

        Raises:
            ConfigError: If an argument is missing, or does not apply to this run.
            DataError: If the data cannot be read, are of another kind, or have a label that is not a class of the run;
                or the tokenizer or image processor has changed.
        """
        if data is None:
            named = {"split": split, "columns": columns, "encoding": encoding, "model": model, "client": client}
            given = [name for name, value in named.items() if value is not None]
            if given:
                raise ConfigError(f"expected data with {' and '.join(given)}; found none. Pass the data.")
            session = self._prepared(scoring_session)
            whole, notes = rescore(self._folder, session, changed_data=changed_data)
            _log(notes if self.session is not None else [*notes, *other_data(session, self._folder)])
            return whole
        found, notes = score(self._trained(model, client, changed_data), data, split, columns or {}, encoding)
        _log(notes)
        return found

    def forget(self, clients: Sequence[int]) -> Summary:
        """Remove clients from the run's solved head, exactly as if they had never taken part; the folder changes.

        Args:
            clients: The ids of the clients, at least one.

        Returns:
            The new summary, whose ``forgotten`` lists all forgotten clients.

        Raises:
            ConfigError: If the run is not ``head-only`` with a solved head on this machine, or a client is not in the
                run or forgotten already.
            DataError: If a class has no sample on any remaining client; nothing has changed then.
            RunFolderError: If the run has not finished, has changed, or cannot be written.
        """
        again = partial(self._prepared, prepare)
        forget(self._folder, sorted(set(clients)), lambda line: warn(self._folder, line), again)
        return self.summary

    def _prepared(self, prepare: Callable[[Config, Objects, Sequence[str]], Session]) -> Session:
        """Return the session of the run; it is prepared again if it is not in memory."""
        if self.session is not None:
            return self.session
        given = self.given if self.given.model is None else replace(self.given, model=self._model)
        return prepare(self.config, given, self.summary.labels)

    def peft_model(self, *, model: str | None = None, client: int | None = None) -> Any:
        """Return the foundation model with the adapter as a PEFT model, including its head if PEFT has one.

        It is the run's only model in memory: ``predict`` and ``evaluate`` also use it and change its values.

        Args:
            model: The name of the model, for a run with several models.
            client: The client whose head is used, if clients keep their own heads.
        """
        return self._trained(model, client, True).model.peft

    def export(
        self,
        out: str | Path | None = None,
        *,
        form: str | None = None,
        merge: bool = False,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> Path:
        """Write files that PEFT, transformers or sentence-transformers load.

        Args:
            out: A new folder; None takes ``export`` in the run's folder.
            form: ``adapter`` (the default), ``merged`` or ``sentence-transformers``.
            merge: The same as ``form="merged"``.
            model: The name of the model, for a run with several models.
            client: The client whose head is used, if clients keep their own heads.
            changed_data: Write a model beside another tokenizer or image processor than the run's, with a warning.

        Raises:
            ConfigError: If there is no such form.
            DataError: If the tokenizer or image processor, which is written with a model, has changed.
            RunFolderError: If the folder exists or cannot be written.
        """
        wanted, target = exports.asked_form(form, merge), Path(out or self.path / "export")
        check_path(target)
        if target.exists():
            raise RunFolderError(f"expected a new folder to export to; {target} exists. Choose another.")
        # A merged model cannot be used again: a model from files is loaded again, an object is copied.
        spare = wanted != "adapter" and self.session is None and self.given.model is None
        trained = self._trained(model, client, changed_data or wanted == "adapter", spare)
        exported = trained.model if wanted == "adapter" or spare else copy.deepcopy(trained.model)
        try:
            exports.export(exported, target, wanted, trained.config.data.max_length)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"expected to write {target}; {getattr(error, 'strerror', None) or error}") from error
        return target

    @cached_property
    def _model(self) -> LoraModel:
        """The model in memory, loaded once; its values are written for each use."""
        if self.session is not None:
            return self.session.model
        summary = self._folder.summary()
        return load_model(model_settings(self.config), summary.labels, summary.model_kind, self.given)

    def _trained(self, model: str | None, client: int | None, changed_data: bool, anew: bool = False) -> Trained:
        """Return the model with the given model's adapter and client's head."""
        loaded = None if anew else self._model
        trained = load_trained(self._folder, model, client, loaded, changed_data=changed_data)
        _log(trained.notes)
        return trained


RunResult = TrainedRun
"""The result of ``fedhello.run``, the same class as a run read from its folder."""


def _log(notes: Iterable[str]) -> None:
    for note in notes:
        logger.warning(note)
