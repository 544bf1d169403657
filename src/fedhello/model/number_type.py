"""Run a model in bf16: the weights of its frozen linear layers are cast once, where autocast casts them in each pass.

Autocast rounds the inputs of a matrix product to bf16. It keeps the rounded copies of weights that train for one
forward pass, and makes those of frozen weights anew at every use, though they never change. Here a frozen layer holds
its rounded copy while the model runs in bf16, so all results are the same, bit for bit, and a step neither makes nor
holds copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedhello.model.adapter import LoraModel

CAST = (nn.Linear, nn.Conv2d, Conv1D)
"""Layers that use their weight and bias in a product alone, whose inputs autocast rounds."""


@dataclass(frozen=True)
class _Copy:
    """A rounded copy of a weight of some version: that of a frozen weight changes when a product is merged into it."""

    weight: nn.Parameter
    version: int
    rounded: nn.Parameter


@contextmanager
def in_bfloat16(model: LoraModel, enabled: bool = True) -> Iterator[None]:
    """Run forward passes inside the context in bf16: autocast, with the frozen weights rounded before.

    Backward passes belong outside of this context, and inside ``rounded_weights``.

    Args:
        model: The model.
        enabled: Whether to do so; else nothing changes.
    """
    if not enabled:  # an outer context stays as it is
        yield
        return
    with rounded_weights(model), torch.autocast(model.device.type, torch.bfloat16):
        yield


@contextmanager
def rounded_weights(model: LoraModel, enabled: bool = True) -> Iterator[None]:
    """Let the frozen linear layers hold their weights in bf16 inside the context; copies are kept for the next time.

    Weights of other types than float32 stay as they are, and so do all of a model with DoRA's magnitudes, which are
    computed from the weights themselves.

    Args:
        model: The model.
        enabled: Whether to do so; else nothing changes.
    """
    held = list(_frozen(model)) if enabled and not model.has_magnitudes else []
    copies = _COPIES.setdefault(model, {}) if held else {}
    try:
        for module, name, weight in held:
            module._parameters[name] = _rounded(copies, weight)
        yield
    finally:
        for module, name, weight in held:
            module._parameters[name] = weight


_COPIES: WeakKeyDictionary[LoraModel, dict[int, _Copy]] = WeakKeyDictionary()
"""Model → id of a weight → its copy."""


def _frozen(model: LoraModel) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield the float32 weights of the frozen linear layers, each with its layer and its name there."""
    own = model.own_parameters
    for module in model.module.modules():
        for name, weight in module._parameters.items() if isinstance(module, CAST) else ():
            if weight is not None and weight.dtype == torch.float32 and id(weight) not in own:
                yield module, name, weight


def _rounded(copies: dict[int, _Copy], weight: nn.Parameter) -> nn.Parameter:
    found = copies.get(id(weight))
    if found is None or found.version != weight._version:
        with torch.inference_mode(False):  # a later backward pass may need it
            rounded = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
        found = copies[id(weight)] = _Copy(weight, weight._version, rounded)
    return found.rounded
