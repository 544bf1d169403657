"""A run that has ended, read from its folder: its summary, its rounds and its model."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TextIO, TypeVar, overload

from safetensors import SafetensorError

from fedhello.config.schema import Config
from fedhello.config.settings import model_settings
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.model import exports
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import Evaluation
from fedhello.notes import logger
from fedhello.results.forget import forget
from fedhello.results.inference import infer, score
from fedhello.results.per_client import ClientScores, client_scores
from fedhello.results.prediction import Prediction, Told, Wanted, predict_rows
from fedhello.results.rounds import Rounds
from fedhello.results.trained import RunEvaluation, Trained, load_trained, rescore, scoring_session
from fedhello.runs.confusion import NO_MATRIX, read_confusion
from fedhello.runs.files import check_path
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import write_clients
from fedhello.runs.progress import other_data
from fedhello.runs.runner import warn
from fedhello.runs.summary import Summary
from fedhello.session import Session
from fedhello.setup.model import NAMED, Objects, load_model
from fedhello.setup.prepare import prepare

T = TypeVar("T")


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
        top: int | None = None,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> list[Prediction]:
        """Classify texts, pairs of texts, image files or tensors, or answer prompts with a language model.

        They are run in parts, so that the memory beside them and their predictions does not grow with their number.

        Args:
            inputs: Texts, prompts, or paths of images; for a plain module tensors or arrays, each one sample.
            pairs: The second texts, for a model of pairs.
            probabilities: Whether to return the probabilities of all classes.
            top: The number of likeliest classes to return; None for the likeliest alone.
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
            top,
        )
        _log(notes)
        return [Prediction(**row) for row in found]

    def predict_file(
        self,
        file: str | Path | TextIO,
        out: str | Path | TextIO,
        *,
        columns: Mapping[str, Any] | None = None,
        encoding: str | None = None,
        probabilities: bool = False,
        top: int | None = None,
        json_lines: bool = False,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
        told: Told | None = None,
    ) -> int:
        """Write the rows of a file with a prediction for each, part by part, in memory that does not grow with it.

        Args:
            file: A CSV, TSV, JSON or Parquet file; or an open text of which each line is an input.
            out: A new CSV, TSV or JSON lines file, which appears completely or not at all; or an open text. It gets the
                columns of ``file``, and ``predicted`` and ``probability``, or ``answer`` of a language model.
            columns: ``text`` (one, or two for pairs), ``image`` or ``prompt`` → the column's name in ``file``, if it
                differs from the run's.
            encoding: Of tables that are not UTF-8, if it differs from the run's.
            probabilities: Whether to write a column ``p(LABEL)`` for each class.
            top: The number of likeliest classes that are written, as ``predicted_2``, ``probability_2`` and so on.
            json_lines: Whether an open text gets JSON lines instead of CSV.
            model: The name of the model, for a run with several models.
            client: The client whose head is used, if clients keep their own heads.
            changed_data: Go on although the tokenizer or image processor is not the run's, with a warning.
            told: Called after each part with the number of rows so far and the share of the file, if that is known.

        Returns:
            The number of rows, with those that lack an input: they get no prediction, and a warning counts them.

        Raises:
            ConfigError: If an argument is missing, or does not apply to this run or file.
            DataError: If the file cannot be read, no row has an input for the model, or the tokenizer has changed.
            RunFolderError: If ``out`` exists or cannot be written.
        """
        trained = self._trained(model, client, changed_data)
        given = Path(file) if isinstance(file, (str, Path)) else file
        target = Path(out) if isinstance(out, (str, Path)) else out
        wanted = Wanted(columns or {}, encoding, probabilities, top, json_lines)
        rows, notes = predict_rows(trained, given, target, wanted, told)
        _log(notes)
        return rows

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

    def client_scores(self, evaluation: Evaluation | None = None) -> ClientScores:
        """Return the test accuracy of each client, at its own mix of classes; no sample is run once more.

        Args:
            evaluation: Scores of the run's model with a confusion matrix; None takes those of the run's end.

        Raises:
            ConfigError: If there is no confusion matrix: the run leads to several models, its clients keep their own
                heads, it is of a language model, or was written by fedhello 0.2.0 or earlier.
        """
        kept = read_confusion(self.path) if evaluation is None else None
        matrix = evaluation.confusion if evaluation is not None else None if kept is None else kept.after
        if matrix is None:
            raise ConfigError(NO_MATRIX)
        return client_scores(matrix, self._folder.clients())

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
        base: bool = False,
        model: str | None = None,
        client: int | None = None,
        changed_data: bool = False,
    ) -> Path:
        """Write files that PEFT, transformers or sentence-transformers load.

        Args:
            out: A new folder; None takes ``export`` in the run's folder.
            form: ``adapter`` (the default), ``merged`` or ``sentence-transformers``.
            merge: The same as ``form="merged"``.
            base: Write an adapter with its base, so that the folder is loaded without a network.
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
            exports.export(exported, target, wanted, trained.config.data.max_length, base)
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
