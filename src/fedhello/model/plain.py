"""A plain ``torch.nn.Module`` as a foundation model, called with one tensor per batch.

The module has blocks (one ``nn.ModuleList`` or ``nn.Sequential`` of modules of one class) with linear layers inside.
For a batch of b samples it returns either features, shape (b, d) or (b, T, d), on which fedhello puts a head, or
logits, shape (b, C), from a linear layer of its own that ``model.head_module`` names.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from fedhello.data.memory import MEMORY
from fedhello.errors import ModelError
from fedhello.model.loading import FoundationModel
from fedhello.model.pooling import NATIVE, Pooling
from fedhello.model.sources import TENSORS, ModelSource

INPUT = "inputs"
"""Name of the input tensor in a batch."""

ADDED = (
    "base_layer", "default", "lora_A", "lora_B", "lora_dropout", "lora_embedding_A", "lora_embedding_B",
    "lora_magnitude_vector",
)  # fmt: skip
"""Modules that PEFT adds to an adapted layer."""

SPREAD = 0.02
"""Standard deviation of the initial weights of a new head."""


def is_plain(module: object) -> bool:
    """Whether an object is a module, but not one of transformers."""
    return isinstance(module, nn.Module) and not isinstance(module, PreTrainedModel)


def found_features(module: nn.Module, sample: Tensor, pooling: Pooling | Literal["auto"]) -> tuple[Pooling, int]:
    """Return a module's pooling and feature size d, found by running it on a sample.

    Args:
        module: The module, without an adapter.
        sample: One sample, without the dimension of the batch.
        pooling: The configured pooling; ``auto`` is possible if only one pooling fits.

    Raises:
        ModelError: If the module does not run, or its features cannot be pooled like that.
    """
    made = _tried(module, sample)
    name, shape = type(module).__name__, f"({', '.join(['b', *map(str, made.shape[1:])])})"
    if made.dim() == 2 and pooling in ("auto", "pooler"):
        return "pooler", made.shape[1]
    if made.dim() == 3 and pooling in ("cls", "mean", "last"):
        return pooling, made.shape[2]
    if made.dim() == 3:
        raise ModelError(
            f"expected model.pooling to be cls, mean or last for {name}, which returns features of shape {shape} for b "
            f"samples; found {pooling}. Set it, or name the module's own last linear layer in model.head_module."
        )
    raise ModelError(
        f"expected {name} to return features of shape (b, d), or (b, T, d) with model.pooling=cls, mean or last, for b "
        f"samples; found {shape} with model.pooling={pooling}"
    )


def check_logits(module: nn.Module, sample: Tensor, head: str, num_labels: int) -> None:
    """Check on a sample that a module returns the logits of the named linear layer, from one feature per sample.

    Args:
        module: The module, without an adapter.
        sample: One sample, without the dimension of the batch.
        head: The layer's dotted path.
        num_labels: C.

    Raises:
        ModelError: If it does not.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    layer = _logits_layer(module, head, num_labels)
    hook = layer.register_forward_hook(lambda _, inputs, made: seen.append((inputs[0], made)))
    try:
        made = _tried(module, sample)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0][0].dim() != 2 or seen[0][1].shape != made.shape or not torch.equal(seen[0][1], made):
        raise ModelError(
            f"expected {type(module).__name__} to call its layer {head} once, on one feature per sample, and to return "
            f"its output, logits of shape (b, {num_labels}); found another use. Pool before that layer, and return its "
            "output unchanged."
        )


def plain_foundation(
    module: nn.Module,
    processor: Any,
    labels: Sequence[str],
    seed: int,
    *,
    pooling: Pooling | Literal["auto"],
    head_module: str | None,
    features: int | None,
) -> FoundationModel:
    """Return the foundation model of a plain module, with a new random head.

    Args:
        module: The module.
        processor: None.
        labels: The names of the classes, in the order of the labels.
        seed: For the head's random values; the global random state does not change.
        pooling: How its features are pooled; see ``found_features``.
        head_module: The dotted path of its own linear layer for the logits, which gets new random values; None puts a
            head on its features.
        features: d, if a head is put on the features.

    Raises:
        ModelError: If the module cannot be used as a foundation model.
    """
    _check(module, processor)
    source = ModelSource(MEMORY, type(module).__name__)
    known = FoundationModel(module, None, source, TENSORS, labels=tuple(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if head_module is not None:
            _logits_layer(module, head_module, len(labels)).reset_parameters()
            return known.with_head(NATIVE, None, head_module)
        if features is None or pooling == "auto" or pooling == NATIVE:
            raise ModelError("expected resolved values of model.features and model.pooling; found none")
        head = nn.Linear(features, len(labels))
        nn.init.normal_(head.weight, std=SPREAD)
        nn.init.zeros_(head.bias)
        return known.with_head(pooling, head)


def plain_as_it_is(module: nn.Module, head: str | None) -> tuple[FoundationModel, int]:
    """Take a plain module with the head that it has, for a program that calls and trains it itself; return C besides.

    From then on its own transformer layers are called as they are written in evaluation, too; see
    ``_every_layer_is_called``.

    Args:
        module: The module.
        head: The dotted path of its own linear layer that makes the logits.

    Raises:
        ModelError: If the module cannot serve, or the path is not that of a linear layer.
    """
    _check(module, None)
    linear = {name: part.out_features for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    if head is None or head not in linear:
        outputs = ", ".join(f"{name} ({size})" for name, size in linear.items())
        raise ModelError(
            f"expected head= to name the linear layer of {type(module).__name__} that makes logits; found {head!r}. "
            f"It has: {outputs}."
        )
    _logits_layer(module, head, linear[head])
    _always_call_every_layer(module)
    source = ModelSource(MEMORY, type(module).__name__)
    return FoundationModel(module, None, source, TENSORS).with_head(NATIVE, None, head), linear[head]


def _always_call_every_layer(module: nn.Module) -> None:
    """Have a module's calls do what ``_every_layer_is_called`` does, whoever makes them."""
    enabled: list[bool] = []

    def before(_: nn.Module, __: Any) -> None:
        enabled.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)

    def after(*_: Any) -> None:
        torch.backends.mha.set_fastpath_enabled(enabled.pop())

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


class TensorClassifier(nn.Module):
    """A plain module that returns logits, with the interface of transformers models."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> SequenceClassifierOutput:
        """Return the logits, shape (b, C)."""
        with _every_layer_is_called():
            return SequenceClassifierOutput(logits=self.module(inputs))


class TensorEncoder(nn.Module):
    """A plain module that returns features, with the interface of transformers models."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> BaseModelOutputWithPooling:
        """Return the features, shape (b, d) or (b, T, d)."""
        with _every_layer_is_called():
            made = self.module(inputs)
        return BaseModelOutputWithPooling(pooler_output=made) if made.dim() == 2 else _tokens(made)


def _tokens(made: Tensor) -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(last_hidden_state=made)


@contextmanager
def _every_layer_is_called() -> Iterator[None]:
    """Switch off the fast path of torch's transformer layers, which reads weights directly and skips the adapter."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check(module: nn.Module, processor: Any) -> None:
    name = type(module).__name__
    if hasattr(module, "peft_config") or any("lora_A" in key for key, _ in module.named_parameters()):
        raise ModelError(f"expected a model without adapters; this {name} has some. Construct it again.")
    if processor is not None:
        raise ModelError(f"expected no processor for {name}, which is called with tensors; found one. Leave it out.")
    types = sorted({str(weight.dtype).removeprefix("torch.") for weight in module.parameters()})
    if not set(types) <= {"float32", "bfloat16"}:
        raise ModelError(f"expected weights of float32 or bfloat16 in {name}; found {', '.join(types)}")
    counts = [path for path, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    counting = [path for path in counts if module.get_submodule(path).track_running_stats]
    if counting:
        raise ModelError(
            f"expected no batch normalisation with running statistics in {name}, since the statistics would change on "
            f"each client and never be aggregated; found {counting[0]}. Use GroupNorm or LayerNorm, or fold it into "
            "the layer before."
        )


def _logits_layer(module: nn.Module, path: str, num_labels: int) -> nn.Linear:
    """Return the linear layer of a path.

    Raises:
        ModelError: If there is no linear layer with ``num_labels`` outputs at the path.
    """
    linear = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    layer = linear.get(path)
    if layer is None or layer.out_features != num_labels:
        found = "none" if layer is None else f"one with {layer.out_features}"
        outputs = ", ".join(f"{name} ({part.out_features})" for name, part in linear.items())
        raise ModelError(
            f"expected model.head_module to name a linear layer of {type(module).__name__} with {num_labels} outputs, "
            f"one per class; found {found} at {path!r}. Its linear layers: {outputs}."
        )
    others = [name for name, _ in module.named_modules() if name != path and name.endswith(path)]
    others += [f"{name}, which LoRA adds" for name in ADDED if name.endswith(path)]
    if others:  # PEFT selects the modules that it saves by the end of their path
        raise ModelError(
            f"expected no other module whose path ends with that of the head, {path}; found {others[0]}. Rename the "
            "head, for example to classifier."
        )
    return layer


def _tried(module: nn.Module, sample: Tensor) -> Tensor:
    """Run a module on a batch of two equal samples; whatever it raises becomes a ``ModelError``."""
    name, device = type(module).__name__, next(module.parameters()).device
    batch = sample.unsqueeze(0).repeat(2, *[1] * sample.dim()).to(device)
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode(), _every_layer_is_called():
            made = module(batch)
    except Exception as error:  # it is somebody else's code
        raise ModelError(
            f"expected {name} to accept a batch of shape {tuple(batch.shape)} and type {batch.dtype}, the samples of "
            f"data.tensor; it raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    finally:
        module.train(was_training)
    if not isinstance(made, Tensor) or not made.is_floating_point() or len(made) != 2:
        said = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise ModelError(
            f"expected {name} to return one tensor, with a row of logits or features for each sample; found {said} for "
            "a batch of 2"
        )
    return made
