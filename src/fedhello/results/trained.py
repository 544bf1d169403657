"""A run's trained models, read from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedhello.config.partitions import Iid
from fedhello.config.schema import Config
from fedhello.config.settings import model_settings
from fedhello.config.stored import stored_config
from fedhello.data.partition import PARTITIONS
from fedhello.errors import ConfigError, DataError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import METRICS, Evaluation
from fedhello.model.generation import rouge_l
from fedhello.model.saving import load_adapter, write_fitting
from fedhello.runs.answers import answer
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import evaluate_adapter, mean_over_models
from fedhello.runs.progress import ACCEPTING, another_processor
from fedhello.session import Session
from fedhello.setup.encoding import reader_of
from fedhello.setup.model import NAMED, Objects, load_model
from fedhello.setup.prepare import prepare
from fedhello.types import Adapter


@dataclass(frozen=True)
class Trained:
    """One trained model of a run.

    Attributes:
        config: The run's configuration.
        labels: The names of the classes.
        model: The model with its adapter and head.
        notes: Notes for the user.
    """

    config: Config
    labels: tuple[str, ...]
    model: LoraModel
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunEvaluation:
    """How well a run's model does on the data that the run chose and reported by.

    Attributes:
        validation: On the server's validation data; the mean over the models of a run that leads to several.
        test: On its test data, likewise; of a language model that answers prompts, ``more`` has ``rouge_l``.
        models: Name → that model alone on the test data, of a run that leads to several; else empty.

    Example:
        >>> scores = fh.run("my.yaml").evaluate()
        >>> scores.test.samples, 0 <= scores.test.accuracy <= 1, sorted(scores.to_dict())
        (16, True, ['samples', 'test', 'validation'])
    """

    validation: Evaluation
    test: Evaluation
    models: Mapping[str, Evaluation] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready, as ``fedhello evaluate --json`` prints it."""
        listed = scores_listed({"validation": self.validation, "test": self.test})
        return listed | ({"models": {name: _plain(one) for name, one in self.models.items()}} if self.models else {})


def load_trained(
    folder: RunFolder,
    name: str | None = None,
    client: int | None = None,
    loaded: LoraModel | None = None,
    *,
    changed_data: bool = False,
) -> Trained:
    """Load a run's model.

    Args:
        folder: The folder of a run that has ended.
        name: The name of the model, for a run with several models.
        client: The client whose head is used, if clients keep their own heads.
        loaded: The run's model, if it is in memory; it holds the adapter afterwards.
        changed_data: Whether another tokenizer or image processor than the run's is accepted, with a note.

    Raises:
        DataError: If the tokenizer or image processor is not the run's, and that is not accepted.
        ConfigError: If name or client is missing, is not in the run, or does not apply to it.
        ModelError: If the model cannot be loaded, or is not the model of the run.
        RunFolderError: If the run has not ended.
    """
    config, summary = stored_config(folder.path), folder.summary()
    models = folder.models()
    _check_name(name, models)
    labels = summary.labels
    model = loaded or load_model(model_settings(config), labels, summary.model_kind)
    model.guarantee = summary.guarantee
    notes = _read_adapter(folder, model, changed_data)
    if name is not None:
        _write_part(model, models[name], folder.path / "models" / f"{name}.safetensors")
        notes += _untrained(folder, name)
    if config.model.head == "local":
        heads = folder.personal_heads()
        if client not in heads:
            known = ", ".join(map(str, heads)) or "none has trained yet"
            raise ConfigError(
                f"expected a client, since each client of this run keeps its own head; choose one of: {known}"
            )
        if name is not None and name.startswith("client-") and name != f"client-{client}":
            raise ConfigError(
                f"expected model and client to be the same client's; found model {name} and client {client}. Name the "
                "same client twice."
            )
        _write_part(model, heads[client], folder.path / "heads" / f"client-{client}.safetensors")
    elif client is not None:
        raise ConfigError("expected no client, since the clients of this run share one head; leave it out")
    return Trained(config, labels, model, tuple(notes))


def scoring_session(config: Config, given: Objects = NAMED, labels: Sequence[str] | None = None) -> Session:
    """Return the session to evaluate a run's model with.

    With a shared head the scores do not depend on the partition, so a user-defined partition that is not imported is
    not needed.

    Raises:
        FedhelloError: Of the matching kind, if the run cannot be prepared again.
    """
    if config.model.adapter is not None and config.model.head != "local":  # the run's own takes its place
        config = config.model_copy(update={"model": config.model.model_copy(update={"adapter": None})})
    if config.data.partition.kind not in PARTITIONS and config.model.head != "local":
        data = config.data.model_copy(update={"partition": Iid(kind="iid")})
        config = config.model_copy(update={"data": data})
    return prepare(config, given, labels)


def rescore(folder: RunFolder, session: Session, *, changed_data: bool = False) -> tuple[RunEvaluation, list[str]]:
    """Evaluate a run's model, or the mean over its models, as the run does; return the scores, and notes.

    Args:
        folder: The folder of a run that has ended.
        session: The session of the run, or the same prepared again.
        changed_data: Whether another tokenizer or image processor than the run's is accepted, with a note.

    Raises:
        DataError: If the tokenizer or image processor is not the run's, and that is not accepted.
        ModelError: If the session's model is not the model of the run.
    """
    notes = _read_adapter(folder, session.model, changed_data)
    known, missing = known_metrics(session.settings.metrics)
    notes += missing
    session = replace(session, settings=replace(session.settings, metrics=known))
    heads = folder.personal_heads() if session.head.is_personal else None
    models = folder.models()
    adapters = [_as_adapter(tensors, session.model) for tensors in models.values()]
    found = [evaluate_adapter(session, a, heads) for a in adapters or [session.model.snapshot(share_head=False)]]
    validation, test = mean_over_models(found)
    if models:
        notes.append(f"the scores are means over {len(models)} models: {', '.join(models)}")
    elif session.server.questions:
        overlap = rouge_l(answer(session), [right for _, right in session.server.questions])
        test = replace(test, more={**test.more, "rouge_l": overlap})
    of_each = {name: test for name, (_, test) in zip(models, found, strict=True)} if models else {}
    return RunEvaluation(validation, test, of_each), notes


def known_metrics(names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the registered metrics, and a note on the others."""
    known = tuple(name for name in names if name in METRICS)
    missing = [name for name in names if name not in METRICS]
    said = f"without {', '.join(missing)} of run.metrics, which is not imported or registered here"
    return known, [said] if missing else []


def scores_listed(scores: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return JSON-ready scores on each set of samples by its name, and under ``samples`` the sizes of the sets."""
    plain: dict[str, Any] = {part: _plain(score) for part, score in scores.items()}
    return plain | {"samples": {part: score.samples for part, score in scores.items()}}


def _plain(score: Evaluation) -> dict[str, float]:
    return {"accuracy": score.accuracy, "loss": score.loss, **score.more}


def _as_adapter(tensors: dict[str, Tensor], model: LoraModel) -> Adapter:
    return Adapter(tensors, {name: model.block_of[name] for name in tensors})


def _read_adapter(folder: RunFolder, model: LoraModel, changed_data: bool) -> list[str]:
    """Read a run's adapter into a model, whose frozen weights must be those of the run; return notes."""
    load_adapter(model, folder.adapter)
    notes, data = [], folder.data()
    if data is not None and data[0].other_processor(reader_of(model)):
        if not changed_data:
            raise DataError(
                f"expected what {folder.path} was trained with; found {another_processor(model)}, with which its "
                f"answers mean nothing. Restore it, or go on with this one: {ACCEPTING}."
            )
        notes.append(
            f"the tokenizer or image processor of {model.source.base_name} is not the one that {folder.path} was "
            "trained with, so its results mean little"
        )
    weights = folder.summary().weights
    if weights is None:
        notes.append(f"{folder.path} has no digest of its frozen weights, so those of the model are not checked")
    elif weights != model.weights_digest():
        raise ModelError(
            f"expected the weights of {model.source.base_name} that {folder.path} was trained on; found others of the "
            "same shapes. Restore them, or start a new run."
        )
    return notes


def _write_part(model: LoraModel, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write some of a model's tensors from a file, if all of them fit."""
    odd = {name: pair for name, pair in model.misfits(tensors).items() if name in tensors}
    write_fitting(model, tensors, file, odd)


def _check_name(name: str | None, models: dict[str, dict[str, Tensor]]) -> None:
    if models and name not in models:
        found = "" if name is None else f", found {name}"
        raise ConfigError(f"expected a model, since this run has several{found}; choose one of: {', '.join(models)}")
    if name is not None and not models:
        raise ConfigError("expected no model, since this run has only one; leave it out")


def _untrained(folder: RunFolder, name: str) -> list[str]:
    """Return a note if a client's own model never took part in a round."""
    trained = {f"client-{client.client}" for record in folder.rounds() for client in record.report.clients}
    if name.startswith("client-") and name not in trained:
        return [f"{name} took part in no round, so its model is untrained"]
    return []
