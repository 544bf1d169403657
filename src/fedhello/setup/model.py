"""Load the foundation model of a session on its device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedhello.data.dataset import DataSet
from fedhello.data.tables import Source
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import set_attention
from fedhello.model.in_memory import foundation_of
from fedhello.model.injection import Admit, attach_lora
from fedhello.model.loading import FoundationModel, load_foundation
from fedhello.model.plain import check_logits, found_features, is_plain, plain_foundation
from fedhello.model.settings import ModelSettings
from fedhello.model.sources import CAUSAL_LM, TENSORS, resolve
from fedhello.model.sources import Kind as ModelKind
from fedhello.randomness import integer_seed


@dataclass(frozen=True)
class Objects:
    """Objects that a program passes instead of names.

    Attributes:
        model: A transformers model or a plain module, into which the adapter is injected without copying; or a model
            that has an adapter of this configuration already. None loads ``model.name``.
        processor: Its tokenizer or image processor.
        data: The source of the data; None reads ``data.name``.
    """

    model: Any = None
    processor: Any = None
    data: Source | None = None


NAMED = Objects()
"""No objects: everything is loaded by its name in the configuration."""


def load_model(
    settings: ModelSettings,
    labels: Sequence[str],
    kind: ModelKind = "text-classification",
    given: Objects = NAMED,
    admit: Admit | None = None,
) -> LoraModel:
    """Load a foundation model, or use a given one, and return it with a new adapter and head on its device.

    Args:
        settings: The settings of the model.
        labels: The names of the classes; ignored for a language model, which has no head.
        kind: The model's task and input.
        given: The objects of the program, possibly with a model.
        admit: Called with the number of the adapter's values, before they are made; may raise.

    Raises:
        MissingExtraError: If an embedded model or bitsandbytes is needed and not installed.
        ModelError: If it cannot be loaded or verified, or is of an unsupported kind.
    """
    if isinstance(given.model, LoraModel):
        given.model.frozen_dropout = settings.frozen_dropout
        set_attention(given.model, settings.attention)
        return given.model
    device = choose_device(settings.device)
    base = _foundation(settings, labels, kind, given, device)
    lora = settings.lora
    model = attach_lora(
        base,
        num_labels=None if kind == CAUSAL_LM else len(labels),
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        seed=integer_seed(settings.seed, "lora"),
        rslora=lora.rslora,
        dora=lora.dora,
        admit=admit,
    )
    model.frozen_dropout = settings.frozen_dropout
    set_attention(model, settings.attention)
    model.module.to(device)
    return model


def _foundation(
    settings: ModelSettings, labels: Sequence[str], kind: ModelKind, given: Objects, device: torch.device
) -> FoundationModel:
    seed = integer_seed(settings.seed, "head")
    name = type(given.model).__name__
    if is_plain(given.model) and kind != TENSORS:
        raise ModelError(
            f"expected a transformers model (PreTrainedModel) for {kind.replace('-', ' ')}; found {name}. A plain "
            "torch.nn.Module needs tensors: name their column in data.tensor."
        )
    if kind == TENSORS and given.model is not None and not is_plain(given.model):
        raise ModelError(
            f"expected a plain torch.nn.Module for data.tensor; found {name}. Leave data.tensor out for a "
            "transformers model, whose input are texts or images."
        )
    if is_plain(given.model):
        return plain_foundation(
            given.model,
            given.processor,
            labels,
            seed,
            pooling=settings.pooling,
            head_module=settings.head_module,
            features=settings.features,
        )
    if given.model is not None:
        return foundation_of(
            given.model,
            given.processor,
            kind,
            labels,
            seed,
            pad_token=settings.pad_token,
            pooling=settings.pooling,
        )
    return load_foundation(
        resolve(settings.name, settings.revision),
        kind,
        labels,
        seed,
        dtype=getattr(torch, settings.dtype),
        quantisation=settings.quantisation,
        pad_token=settings.pad_token,
        device=device,
        pooling=settings.pooling,
    )


def with_features(settings: ModelSettings, data: DataSet, given: Objects) -> ModelSettings:
    """Return the settings with pooling and feature size of a plain module, found by running it on a sample.

    Raises:
        ModelError: If it does not run on the data, or its output cannot be the input of a head.
    """
    sample = data.inputs[0]
    if not is_plain(given.model) or not isinstance(sample, np.ndarray):
        return settings
    tensor = torch.from_numpy(sample)
    if settings.head_module is not None:
        check_logits(given.model, tensor, settings.head_module, len(data.label_names))
        return settings
    pooling, features = found_features(given.model, tensor, settings.pooling)
    if settings.features not in (None, features):
        raise ModelError(
            f"expected model.features={settings.features} of {type(given.model).__name__}; found {features}. Leave "
            "model.features out."
        )
    return replace(settings, pooling=pooling, features=features)


def choose_device(name: str) -> torch.device:
    """Return a device by its name; ``auto`` takes CUDA before MPS before the CPU.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"expected run.device to be auto, cpu or an available device; {name!r}: {reason}") from error
    return device
