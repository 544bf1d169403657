"""A foundation model that is passed as an object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
)

from fedhello.data.memory import MEMORY
from fedhello.errors import ModelError
from fedhello.model.loading import FoundationModel, check_causal, named_classes, refresh_head, set_padding
from fedhello.model.pooling import NATIVE, Pooling, fresh_head, stated_by_config
from fedhello.model.sources import CAUSAL_LM, IMAGES, Kind, ModelSource


def foundation_of(
    module: nn.Module,
    processor: Any,
    kind: Kind,
    labels: Sequence[str],
    seed: int,
    *,
    pad_token: str | None = None,
    pooling: Pooling | Literal["auto"] = "auto",
) -> FoundationModel:
    """Return the foundation model of a transformers object; a classifier gets a new random head.

    Args:
        module: A language model, a classifier with C outputs, or a model without a head.
        processor: Its tokenizer or image processor; None for images that are scaled to the model's ``image_size``.
        kind: The model's task and input.
        labels: The names of the classes, in the order of the labels; ignored for a language model.
        seed: For the head's random values; the global random state does not change.
        pad_token: The padding token, for a tokenizer without one.
        pooling: How the features of a model without a head are pooled; for a classifier ``auto`` or ``native``.

    Raises:
        ModelError: If it is none of these models, comes without its tokenizer, is quantised, has another number of
            outputs, has adapters already, or its features cannot be pooled like that.
    """
    _check(module, processor, kind)
    source = _source(module)
    head, found = None, pooling
    if kind == CAUSAL_LM:
        _check_speaks(module)
        check_causal(source, module)
        found = NATIVE
    elif _classifies(module):
        found = _of_classifier(module, labels, seed, pooling)
    else:
        found, head = _of_encoder(module, labels, seed, pooling, kind == IMAGES)
    if kind != IMAGES:
        set_padding(source, module, processor, pad_token)
    return FoundationModel(module, processor, source, kind, "none", found, head)


def as_it_is(module: nn.Module) -> FoundationModel:
    """Return the foundation model of a transformers object with its own head, for programs that train it themselves.

    Args:
        module: A classifier of texts or images, or a language model.

    Raises:
        ModelError: If it is none of these, has adapters already, or is quantised.
    """
    _check_module(module)
    source = _source(module)
    if not _classifies(module):
        _check_speaks(module)
        check_causal(source, module)
        return FoundationModel(module, None, source, CAUSAL_LM)
    kind: Kind = IMAGES if getattr(module, "main_input_name", "") == "pixel_values" else "text-classification"
    return FoundationModel(module, None, source, kind)


def _check(module: nn.Module, processor: Any, kind: Kind) -> None:
    _check_module(module)
    if processor is None and kind != IMAGES:
        raise ModelError(f"expected the tokenizer of {type(module).__name__}; found none. Pass it as processor=….")


def _check_module(module: nn.Module) -> None:
    name = type(module).__name__
    if not isinstance(module, PreTrainedModel):
        raise ModelError(f"expected a transformers model (PreTrainedModel); found {name}")
    if hasattr(module, "peft_config"):
        raise ModelError(f"expected a model without adapters; this {name} has some. Load it again.")
    if getattr(module, "hf_quantizer", None) is not None:
        raise ModelError(f"expected a {name} whose weights are not quantised; set model.name and model.quantisation.")


def _check_speaks(module: nn.Module) -> None:
    """Check that a model has what makes tokens of its features."""
    outputs: Any = getattr(module, "get_output_embeddings", lambda: None)
    if outputs() is None:
        raise ModelError(
            "expected a model with a head, such as an AutoModelForSequenceClassification or an AutoModelForCausalLM; "
            f"{type(module).__name__} has none"
        )


def _classifies(module: nn.Module) -> bool:
    return hasattr(module, "num_labels") and any(
        task in type(module).__name__ for task in ("Classification", "Classifier")
    )


def _source(module: Any) -> ModelSource:
    where = str(module.config.name_or_path or type(module).__name__)
    # An adapter is given to others, who must not see local paths.
    return ModelSource(MEMORY, Path(where).resolve().name if Path(where).is_dir() else where)


def _of_encoder(
    module: Any, labels: Sequence[str], seed: int, pooling: Pooling | Literal["auto"], images: bool
) -> tuple[Pooling, nn.Linear]:
    """Return the pooling of a model without a head, and a new head for it."""
    found = stated_by_config(module.config, images) if pooling == "auto" else pooling
    if found == NATIVE:
        raise ModelError(
            f"expected model.pooling to be cls, mean, last or pooler for {type(module).__name__}, which has no head "
            f"and whose configuration does not name a pooling; found {pooling}"
        )
    for key, value in named_classes(labels).items():
        setattr(module.config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return found, fresh_head(module.config, len(labels))


def _of_classifier(module: Any, labels: Sequence[str], seed: int, pooling: str) -> Pooling:
    """Give a classifier new random values for its head; features are pooled by its architecture."""
    if pooling not in ("auto", NATIVE):
        raise ModelError(
            f"expected model.pooling to be auto or native for {type(module).__name__}, which has a head of its own; "
            f"found {pooling}. Pass the model without a head for another pooling."
        )
    if module.config.num_labels != len(labels):
        raise ModelError(
            f"expected {len(labels)} outputs for the classes {', '.join(labels)}; {type(module).__name__} has "
            f"{module.config.num_labels}. Load it with num_labels={len(labels)}."
        )
    for key, value in named_classes(labels).items():
        setattr(module.config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        refresh_head(module, len(labels), {"missing_keys": []})
    return NATIVE
