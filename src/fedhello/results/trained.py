"""A run's trained models, read back from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedhello.config.partitions import Iid
from fedhello.config.schema import Config
from fedhello.config.settings import model_settings
from fedhello.config.stored import stored_config
from fedhello.data.partition import PARTITIONS
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import METRICS, Evaluation
from fedhello.model.generation import rouge_l
from fedhello.model.saving import load_adapter
from fedhello.runs.answers import answer
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import evaluate_adapter, mean_over_models
from fedhello.session import Session
from fedhello.setup.model import NAMED, Objects, load_model
from fedhello.setup.prepare import prepare
from fedhello.types import Adapter


@dataclass(frozen=True)
class Trained:
    """One trained model of a run.

    Attributes:
        config: Of the run.
        labels: The names of the classes.
        model: With the adapter and the head.
        notes: What is to be known of it.
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
    folder: RunFolder, name: str | None = None, client: int | None = None, loaded: LoraModel | None = None
) -> Trained:
    """Load a run's model.

    Args:
        folder: Of a run that has ended.
        name: Which model, of a run that leads to several.
        client: Whose head, where clients keep their own.
        loaded: The run's model, where it is in memory; it holds the adapter afterwards.

    Raises:
        ConfigError: If name or client is missing, is none of the run's, or has no meaning there.
        ModelError: If the model cannot be loaded, or is not the one that the run trained on.
        RunFolderError: If the run has not ended.
    """
    config, summary = stored_config(folder.path), folder.summary()
    models = folder.models()
    _check_name(name, models)
    labels = summary.labels
    model = loaded or load_model(model_settings(config), labels, summary.model_kind)
    notes = _read_adapter(folder, model)
    if name is not None:
        model.write(models[name])
        notes += _untrained(folder, name)
    if config.model.head == "local":
        heads = folder.personal_heads()
        if client not in heads:
            known = ", ".join(map(str, heads)) or "none has trained yet"
            raise ConfigError(
                f"expected --client, since each client of this run keeps its own head; choose one of: {known}"
            )
        if name is not None and name.startswith("client-") and name != f"client-{client}":
            raise ConfigError(
                f"expected the head of the client whose model it is; found --model {name} and --client {client}. Give "
                "the same client twice."
            )
        model.write(heads[client])
    elif client is not None:
        raise ConfigError("expected no --client, since the clients of this run share one head")
    return Trained(config, labels, model, tuple(notes))


def scoring_session(config: Config, given: Objects = NAMED) -> Session:
    """Prepare what a run's model is scored with.

    A shared head's scores do not depend on who holds what, so a partition from outside, whose code nobody has imported
    here, is not needed.

    Raises:
        FedhelloError: Of the kind that fits, if the run cannot be prepared again.
    """
    if config.data.partition.kind not in PARTITIONS and config.model.head != "local":
        data = config.data.model_copy(update={"partition": Iid(kind="iid")})
        config = config.model_copy(update={"data": data})
    return prepare(config, given)


def rescore(folder: RunFolder, session: Session) -> tuple[RunEvaluation, list[str]]:
    """Score a run's model, or the mean over its models, as the run did; return the scores, and notes.

    Args:
        folder: Of a run that has ended.
        session: What ran, or the same prepared again.

    Raises:
        ModelError: If the session's model is not the one that the run trained on.
    """
    notes = _read_adapter(folder, session.model)
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
    """Return those metrics whose code is there, and a note on the others."""
    known = tuple(name for name in names if name in METRICS)
    missing = [name for name in names if name not in METRICS]
    said = f"without {', '.join(missing)} of run.metrics, whose code nobody has imported or registered here"
    return known, [said] if missing else []


def scores_listed(scores: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return scores JSON-ready by the names of what they are on, and under ``samples`` how many samples each has."""
    plain: dict[str, Any] = {part: _plain(score) for part, score in scores.items()}
    return plain | {"samples": {part: score.samples for part, score in scores.items()}}


def _plain(score: Evaluation) -> dict[str, float]:
    return {"accuracy": score.accuracy, "loss": score.loss, **score.more}


def _as_adapter(tensors: dict[str, Tensor], model: LoraModel) -> Adapter:
    return Adapter(tensors, {name: model.block_of[name] for name in tensors})


def _read_adapter(folder: RunFolder, model: LoraModel) -> list[str]:
    """Read a run's adapter into a model, whose frozen weights must be those that the run trained on; return notes."""
    load_adapter(model, folder.adapter)
    weights = folder.summary().weights
    if weights is None:
        return [f"{folder.path} does not say which weights it was trained on, so those of the model are not checked"]
    if weights != model.weights_digest():
        raise ModelError(
            f"expected the weights of {model.source.base_name} that {folder.path} was trained on; found others of the "
            "same shapes. Put them back, or run anew."
        )
    return []


def _check_name(name: str | None, models: dict[str, dict[str, Tensor]]) -> None:
    if models and name not in models:
        found = "" if name is None else f", found {name}"
        raise ConfigError(
            f"expected --model, since this run leads to several models{found}; choose one of: {', '.join(models)}"
        )
    if name is not None and not models:
        raise ConfigError("expected no --model, since this run leads to one model")


def _untrained(folder: RunFolder, name: str) -> list[str]:
    """Note a client's own model that never took part in a round."""
    trained = {f"client-{client.client}" for record in folder.rounds() for client in record.report.clients}
    if name.startswith("client-") and name not in trained:
        return [f"{name} took part in no round, so its model is what was there before training"]
    return []
