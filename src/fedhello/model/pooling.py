"""Features: one vector per sample, the input of the head, pooled from the output of the last block.

With H ∈ R^{T×d} the last hidden states of a sample's T tokens (padding left out),

    cls      h = H_0                       the first token
    mean     h = (1/T) Σ_t H_t             of an image: over its patches, without the class token
    last     h = H_{T−1}                   the last token, as in decoders
    pooler   h = the model's own pooler_output, as of the image towers of CLIP and SigLIP
    native   the features of the architecture's own …ForSequenceClassification or …ForImageClassification

and, except for ``native``, the input of the head is x = √d h/‖h‖: all features have the same length and a root mean
square of 1, so that one learning rate and one scale fit the heads of all models. Sentence embedding models are trained
for this normalisation (cosine similarity).

``auto`` follows the model's own files: the pooling of sentence-transformers (``modules.json``), ModernBERT's
``classifier_pooling``, the tower's own pooler for CLIP-like models; otherwise ``native``, or ``last`` for decoders,
whose own classifiers have no bias.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.hub import cached_file

from fedhello.errors import ModelError

Pooled = Literal["cls", "mean", "last", "pooler"]
"""The poolings other than ``native``."""

Pooling = Literal["cls", "mean", "last", "pooler", "native"]
NATIVE: Final = "native"

MODES: Mapping[str, Pooled] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
"""Name of a pooling in sentence-transformers → its name in fedhello."""


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooled, prefix: int = 0) -> Tensor:
    """Return one vector per sample, shape (b, d).

    Args:
        hidden: H, shape (b, T, d).
        mask: 1 for tokens and 0 for padding, on either side, shape (b, T); None without padding.
        pooling: ``cls``, ``mean`` or ``last``.
        prefix: Number of first tokens that ``mean`` leaves out: an image's class token and registers.
    """
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)
    match pooling:
        case "cls":
            return hidden[rows, mask.argmax(dim=1)]
        case "last":
            return hidden[rows, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)]
        case "mean":
            weights = mask[:, prefix:].unsqueeze(-1).to(hidden.dtype)
            return (hidden[:, prefix:] * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
        case _:
            raise ValueError(f"expected cls, mean or last; found {pooling!r}")


def of_one_length(h: Tensor) -> Tensor:
    """Return √d h/‖h‖, float32, shape (b, d)."""
    h = h.float()
    return math.sqrt(h.shape[-1]) * nn.functional.normalize(h, dim=-1)


class PooledClassifier(nn.Module):
    """A classifier of a foundation model, a pooling, and one linear layer on the features.

    Attributes:
        encoder: The foundation model, with or without an adapter.
        pooling: How features are pooled.
        head: The logits layer, weight (C, d) and bias (C,), float32.
    """

    def __init__(self, encoder: nn.Module, pooling: Pooled, head: nn.Linear, prefix: int = 0) -> None:
        super().__init__()
        self.encoder, self.pooling, self.head, self.prefix = encoder, pooling, head, prefix

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return the logits, shape (b, C)."""
        made = self.encoder(**inputs)
        h = made.pooler_output if self.pooling == "pooler" else self._pooled(made.last_hidden_state, inputs)
        return SequenceClassifierOutput(logits=self.head(of_one_length(h)))

    def _pooled(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return pool(hidden, inputs.get("attention_mask"), self.pooling, self.prefix)


def fresh_head(config: Any, num_labels: int) -> nn.Linear:
    """Return a logits layer for a model's features, with random values from torch's global generator.

    Args:
        config: The foundation model's configuration; its ``hidden_size`` is d.
        num_labels: C.

    Raises:
        ModelError: If it states no such size.
    """
    d = getattr(config, "hidden_size", None) or getattr(config.get_text_config(), "hidden_size", None)
    if d is None:
        raise ModelError(
            "expected a model with features of one size, hidden_size in its configuration; found a model of type "
            f"{config.model_type}, which states none"
        )
    head = nn.Linear(d, num_labels)
    nn.init.normal_(head.weight, std=getattr(config, "initializer_range", None) or 0.02)
    nn.init.zeros_(head.bias)
    return head


def class_tokens(module: Any) -> int:
    """Return the number of tokens that an image model puts before its patches: a class token, if any, and registers.

    Args:
        module: A foundation model.
    """
    if module.main_input_name != "pixel_values":
        return 0
    names = {name.rpartition(".")[2] for name, _ in module.named_parameters()}
    has_class_token = bool(names & {"cls_token", "class_embedding"})
    return int(has_class_token) + int(getattr(module.config, "num_register_tokens", 0) or 0)


def stated_pooling(config: Any, location: str, arguments: Mapping[str, Any], images: bool) -> Pooling:
    """Return the pooling that ``auto`` selects for a model: that of its files, else ``native``.

    Args:
        config: The model's configuration.
        location: The folder or the hub id of the model.
        arguments: Further arguments of loading, such as the revision.
        images: Whether it is to read images.

    Raises:
        ModelError: If its files name a pooling that fedhello does not have.
    """
    own = stated_by_config(config, images)
    if own == "pooler":
        return own
    modules = _read(location, "modules.json", arguments)
    return own if modules is None else _of_modules(modules, location, arguments)


def stated_by_config(config: Any, images: bool) -> Pooling:
    """Return the pooling that a model's configuration names, else ``native``."""
    if images and (getattr(config, "vision_config", None) is not None or config.model_type.endswith("_vision_model")):
        return "pooler"
    stated = getattr(config, "classifier_pooling", None)  # ModernBERT
    return stated if stated in ("cls", "mean") else NATIVE


def _of_modules(modules: Any, location: str, arguments: Mapping[str, Any]) -> Pooling:
    """Return the pooling in the files of sentence-transformers."""
    paths = [module.get("path", "") for module in modules if str(module.get("type", "")).endswith("Pooling")]
    if not paths:
        return NATIVE
    stated = _read(location, f"{paths[0]}/config.json", arguments) or {}
    mode = stated.get("pooling_mode")
    modes = _flags(stated) if mode is None else [mode] if isinstance(mode, str) else list(mode)
    found = [MODES[mode] for mode in modes if mode in MODES]
    if len(modes) != 1 or not found:
        raise ModelError(
            f"expected {location} to pool by {', '.join(MODES)}; its {paths[0]}/config.json names "
            f"{' and '.join(map(str, modes)) or 'nothing'}. Set model.pooling to one of {', '.join(get_args(Pooling))}."
        )
    return found[0]


def _flags(stated: Mapping[str, Any]) -> list[str]:
    """Return the poolings that are switched on in the older format, ``pooling_mode_mean_tokens: true``."""
    on = [key.removeprefix("pooling_mode_") for key, value in stated.items() if value is True]
    return [key.removesuffix("_tokens").removesuffix("_token") for key in on if key != "include_prompt"]


def _read(location: str, name: str, arguments: Mapping[str, Any]) -> Any:
    """Read a JSON file of a model; None if it does not exist."""
    how = {key: value for key, value in arguments.items() if key == "revision"}
    path = cached_file(location, name, _raise_exceptions_for_missing_entries=False, **how)
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
