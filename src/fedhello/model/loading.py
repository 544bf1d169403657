"""Load a foundation model: embedded in a Python package, from a folder, or from the model hub."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from fedhello.errors import FedhelloError, ModelError, OutOfReachError
from fedhello.hub import is_out_of_reach
from fedhello.model.blocks import PAGE, TOKENS, find_head
from fedhello.model.folders import broken_file, check_files, check_tokenizer, check_weights
from fedhello.model.pooling import NATIVE, Pooling, fresh_head, stated_pooling
from fedhello.model.probe import tried
from fedhello.model.quantisation import Quantisation, check_can_quantise, keep_layout, quantised
from fedhello.model.sources import CAUSAL_LM, IMAGES, Kind, ModelSource, _pinned

LISTINGS = (" Model type should be one of", " Should have a `model_type` key", " This could be because")
"""Where transformers' messages go on with a hundred names, or with several guesses."""

AUTO_CLASSES: dict[Kind, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
    "causal-lm": AutoModelForCausalLM,
}


@dataclass(frozen=True)
class FoundationModel:
    """A loaded foundation model, before any adapter.

    Attributes:
        module: The model.
        processor: Its tokenizer, or for images its image processor; None without one.
        source: Where the model is loaded from.
        kind: Its task and input.
        quantisation: The quantisation of its weights.
        pooling: How the features of the head are pooled.
        head: The logits layer on the features; None if the architecture's own classifier has it, or without a head.
        head_path: For a plain module with its own logits layer, the layer's dotted path.
        labels: For a plain module, the names of the classes; other models have them in their configuration.
    """

    module: nn.Module
    processor: Any
    source: ModelSource
    kind: Kind = "text-classification"
    quantisation: Quantisation = "none"
    pooling: Pooling = NATIVE
    head: nn.Linear | None = None
    head_path: str | None = None
    labels: tuple[str, ...] = ()

    def with_head(self, pooling: Pooling, head: nn.Linear | None, path: str | None = None) -> "FoundationModel":
        """Return the model with a head on its features, or with the path of its own head."""
        return replace(self, pooling=pooling, head=head, head_path=path)


def load_foundation(
    source: ModelSource,
    kind: Kind,
    labels: Sequence[str],
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    quantisation: Quantisation = "none",
    pad_token: str | None = None,
    device: torch.device | None = None,
    pooling: Pooling | Literal["auto"] = NATIVE,
) -> FoundationModel:
    """Load a model for a task; a classifier gets a new random head.

    Args:
        source: The result of ``resolve``. A hub id is pinned to the commit that is loaded.
        kind: The model's task and input.
        labels: The names of the classes, in the order of the labels; ignored for a language model.
        seed: For the head's random values; the global random state does not change.
        dtype: The type of the weights.
        quantisation: The quantisation of all linear layers except the head's.
        pad_token: The padding token, for a tokenizer without one.
        device: The device of quantised weights; other weights are loaded to the CPU.
        pooling: How a classifier's features are pooled; see ``fedhello.model.pooling``.

    Raises:
        MissingExtraError: If bitsandbytes is needed and not installed.
        ModelError: If the model cannot be loaded or quantised, lacks weights other than the head's, has no padding
            token, or is not a causal language model although one is needed.
    """
    if quantisation != "none":
        check_can_quantise(quantisation, source)
    classes = {} if kind == CAUSAL_LM else named_classes(labels)
    with torch.random.fork_rng(devices=[]), _quiet_transformers(), _explained(source, kind):
        torch.manual_seed(seed)
        source = _pinned(source)
        if not source.is_on_hub and source.gguf is None:
            check_files(Path(source.location), AUTO_CLASSES[kind])
        found = _resolved_pooling(source, kind, pooling)
        processor = _load_processor(source, kind)
        module: Any
        if found == NATIVE:
            module, head = _with_own_head(source, kind, labels, classes, dtype, quantisation, device), None
        else:
            module, head = _without_head(source, kind, classes, dtype, quantisation, device, found)
    if kind != IMAGES:
        check_tokenizer(source.location, processor, module)
        set_padding(source, module, processor, pad_token)
    if source.gguf:
        _forget_file_format(module)
    return FoundationModel(module, processor, source, kind, quantisation, found, head)


def _resolved_pooling(source: ModelSource, kind: Kind, pooling: Pooling | Literal["auto"]) -> Pooling:
    """Return how features are pooled: as configured, or for ``auto`` as in the model's files.

    Raises:
        ModelError: If the model has no features for that pooling.
    """
    if kind == CAUSAL_LM and pooling not in ("auto", NATIVE):
        raise ModelError(
            f"expected model.pooling to be auto or native for a language model, which has no head; found {pooling}"
        )
    if pooling == "last" and kind == IMAGES:
        raise ModelError("expected model.pooling to be auto, cls, mean, pooler or native for images; found last")
    config = AutoConfig.from_pretrained(source.location, **source.arguments)
    found = pooling
    if found == "auto":
        found = NATIVE if kind == CAUSAL_LM else _pooling_by_files(source, kind, config)
    if not (_maps(AUTO_CLASSES[kind], config) if found == NATIVE else _maps(AutoModel, _reading(config, kind))):
        raise _unsupported(source, kind, config, found)
    return found


def _pooling_by_files(source: ModelSource, kind: Kind, config: Any) -> Pooling:
    """Return the pooling of a classifier that its files name, or that fits its architecture."""
    stated = stated_pooling(config, source.location, source.arguments, kind == IMAGES)
    if stated != NATIVE and _maps(AutoModel, _reading(config, kind)):
        return stated
    if kind == IMAGES:
        return NATIVE
    if _maps(AUTO_CLASSES[kind], config):
        return NATIVE if _has_bias(source, kind) else "last"
    return "last" if _maps(AutoModelForCausalLM, config) else NATIVE


def _maps(auto: Any, config: Any) -> bool:
    """Whether transformers has a class for a configuration among those of an auto class."""
    return type(config) in auto._model_mapping


def _reading(config: Any, kind: Kind) -> Any:
    """Return the configuration of what reads a task's input: for images that of the image tower, if it is one part."""
    return (getattr(config, "vision_config", None) or config) if kind == IMAGES else config


def _unsupported(source: ModelSource, kind: Kind, config: Any, pooling: Pooling) -> ModelError:
    others = [known.replace("-", " ") for known, auto in AUTO_CLASSES.items() if known != kind and _maps(auto, config)]
    has = f"only for {' and '.join(others)}" if others else "for none of the tasks here"
    how = ""
    if pooling == NATIVE and kind != CAUSAL_LM and not others and _maps(AutoModel, config):
        how = "Set model.pooling=mean, or another one, to put a head on its features; "
    return ModelError(
        f"expected a model for {kind.replace('-', ' ')} at {source.location!r}; it is of type {config.model_type}, "
        f"which transformers has {has}. {how}{PAGE} lists what works."
    )


def _has_bias(source: ModelSource, kind: Kind) -> bool:
    """Whether the logits layer of the architecture's own classifier has a bias; that of decoders has none.

    A solved head needs a bias; without one, a new logits layer with a bias is put on the last token's feature.
    """
    config = AutoConfig.from_pretrained(source.location, **source.arguments, **named_classes(("one", "other")))
    with torch.device("meta"):
        module = AUTO_CLASSES[kind].from_config(config)
        path = find_head(module, config.num_labels)[1]
    return module.get_submodule(path).bias is not None


def _with_own_head(
    source: ModelSource,
    kind: Kind,
    labels: Sequence[str],
    classes: dict[str, Any],
    dtype: torch.dtype,
    quantisation: Quantisation,
    device: torch.device | None,
) -> nn.Module:
    """Load the architecture's own model for the task, a classifier with a fresh head."""
    skipped = None if kind == CAUSAL_LM or quantisation == "none" else _own_head(source, kind, classes)
    how = quantised(dtype, quantisation, device, skipped)
    module, report = AUTO_CLASSES[kind].from_pretrained(
        source.location, **source.arguments, **classes, **how, **_how(dtype)
    )
    keep_layout(module)
    check_weights(source.location, module, report)
    head = [] if kind == CAUSAL_LM else find_head(module, len(labels))[0]
    _check_complete(source, report, lambda key: key.split(".", 1)[0] not in head)
    if kind == CAUSAL_LM:
        check_causal(source, module)
    else:
        refresh_head(module, len(labels), report)
    loaded: nn.Module = module
    return loaded


def _without_head(
    source: ModelSource,
    kind: Kind,
    classes: dict[str, Any],
    dtype: torch.dtype,
    quantisation: Quantisation,
    device: torch.device | None,
    pooling: Pooling,
) -> tuple[nn.Module, nn.Linear]:
    """Load only the foundation model (the image tower of a model for texts and images), and make a new random head."""
    config = AutoConfig.from_pretrained(source.location, **source.arguments)
    config = _reading(config, kind)
    for key, value in classes.items():
        setattr(config, key, value)
    how = quantised(dtype, quantisation, device)
    module, report = AutoModel.from_pretrained(source.location, **source.arguments, config=config, **how, **_how(dtype))
    keep_layout(module)
    check_weights(source.location, module, report)
    if not (module.main_input_name == "pixel_values" if kind == IMAGES else module.main_input_name in TOKENS):
        raise ModelError(
            f"expected a model that reads {'images' if kind == IMAGES else 'texts'} at {source.location!r}; "
            f"{type(module).__name__} reads {module.main_input_name}. {PAGE} lists what works."
        )
    # Missing weights of a pooler matter only if it computes the features.
    _check_complete(source, report, lambda key: pooling == "pooler" or not key.startswith("pooler."))
    return module, fresh_head(module.config, classes["num_labels"])


def _how(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "use_safetensors": True,  # otherwise transformers may unpickle pytorch_model.bin
        "ignore_mismatched_sizes": True,  # a head for other classes is replaced
        "output_loading_info": True,
    }


def named_classes(labels: Sequence[str]) -> dict[str, Any]:
    """Return the entries about classes in a transformers configuration."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }


@contextmanager
def _explained(source: ModelSource, kind: Kind) -> Iterator[None]:
    """Turn every exception of loading into a ``ModelError`` of one sentence."""
    try:
        yield
    except FedhelloError:
        raise
    except Exception as error:  # transformers raises exceptions of many classes for wrong files
        reason = " ".join(str(error).split())
        for rest in LISTINGS:
            reason = reason.partition(rest)[0]
        reason = reason[:300].rstrip(". ") or type(error).__name__
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"expected a model type that transformers supports; {source.location!r} needs code of its own, which "
                "fedhello never runs. Use a model of a type that transformers has."
            ) from error
        where = "Restore the folder, or set model.name to another one, an embedded model, or a hub id."
        broken = None if source.is_on_hub else broken_file(Path(source.location))
        reason = broken or reason.rstrip(".")
        if source.is_on_hub:
            where = (
                "Where the hub is out of reach, download it elsewhere and set model.name to the path of that folder, "
                "with config.json, weights and tokenizer; or use an embedded model (see fedhello models)."
            )
        if "no file named model.safetensors" in reason or "use_safetensors" in reason:
            reason = "there are no weights in safetensors"
            where = (
                "Weights in pytorch_model.bin are a pickle, which can run code and is never read by fedhello: load "
                "them where you trust them and save them with save_pretrained."
            )
        raise (OutOfReachError if source.is_on_hub and is_out_of_reach(error) else ModelError)(
            f"expected a transformers model for {kind.replace('-', ' ')} at {source.location!r}; it could not be "
            f"loaded: {reason}. {where}"
        ) from error


def _load_processor(source: ModelSource, kind: Kind) -> Any:
    """Return the tokenizer or the image processor; None if an image model's folder has no image processor."""
    if kind != IMAGES:
        return AutoTokenizer.from_pretrained(source.location, **source.arguments)
    files = [Path(source.location) / name for name in ("preprocessor_config.json", "processor_config.json")]
    if not source.is_on_hub and not any(file.is_file() for file in files):
        return None
    # torchvision scales slightly differently, and may be missing on some machines of a federation.
    pillow = {"backend": "pil", "use_fast": False}  # the same setting for newer and older versions of transformers
    return AutoImageProcessor.from_pretrained(source.location, **source.arguments, **pillow)


def _own_head(source: ModelSource, kind: Kind, classes: dict[str, Any]) -> list[str]:
    """Return the parts of the architecture's own classifier that are its head."""
    config = AutoConfig.from_pretrained(source.location, **source.arguments, **classes)
    with torch.device("meta"):
        return find_head(AUTO_CLASSES[kind].from_config(config), classes["num_labels"])[0]


def _check_complete(source: ModelSource, report: Any, is_needed: Callable[[str], bool]) -> None:
    """Check that no needed weight is missing or of another shape."""
    missing = sorted(filter(is_needed, report["missing_keys"]))
    misshapen = sorted(key for key, *_ in report["mismatched_keys"] if is_needed(key))
    if missing or misshapen:
        found, how = (missing, "missing") if missing else (misshapen, "of another shape")
        raise ModelError(
            f"expected complete weights for {source.location!r}; {len(found)} are {how}, the first is {found[0]}"
        )


def check_causal(source: ModelSource, module: Any) -> None:
    """Check that a model is causal: changing the last token must not change the logits before it.

    transformers also loads encoders for this task, which would see the tokens that they have to predict.
    """
    module.eval()
    ids = torch.tensor([[2, 3, 2, 3], [2, 3, 2, 4]], device=module.device)
    one, other = tried(module, {"input_ids": ids}, use_cache=False).logits[:, :-1].float()
    if not torch.allclose(one, other, atol=1e-4 * float(one.abs().max())):
        raise ModelError(
            f"expected a causal language model at {source.location!r}; {type(module).__name__} lets a position see the "
            "tokens after it. Use a decoder, such as GPT-2, Llama or Qwen."
        )


def refresh_head(module: Any, num_labels: int, report: Any) -> None:
    """Give a loaded head new random values, since it was trained for another task."""
    head, _ = find_head(module, num_labels)
    names = {name for name in module.state_dict() if name.split(".", 1)[0] in head}
    if names <= set(report["missing_keys"]):
        return
    for part in (part for name in head for part in module.get_submodule(name).modules()):
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()


def set_padding(source: ModelSource, module: Any, tokenizer: Any, pad_token: str | None) -> None:
    """Set the same padding token in tokenizer and model.

    Raises:
        ModelError: If the tokenizer has no padding token, or ``pad_token`` is not one of its tokens.
    """
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ModelError(
                f"expected model.pad_token to be a token of {source.base_name}; found {pad_token!r}. Its end-of-text "
                f"token is {tokenizer.eos_token!r}."
            )
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"expected the tokenizer of {source.base_name} to have a padding token; it has none. Set model.pad_token "
            f"to one of its tokens, such as its end-of-text token {tokenizer.eos_token!r}."
        )
    # A decoder's classifier uses it to find the last token before the padding.
    module.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _forget_file_format(module: Any) -> None:
    """Remove the GGUF settings from a model's configuration, since its weights are converted and can be saved."""
    quantizer = getattr(module, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(module)


class _quiet_transformers:  # noqa: N801 - used like a function
    """Silence transformers' progress bar and its report that the head has no weights, which is intended."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        self._bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)
        if self._bar:
            transformers_logging.enable_progress_bar()
