"""LoRA put into a foundation model by PEFT."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from peft import (
    LoraConfig,
    TaskType,
    prepare_model_for_kbit_training,
)
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
    convert_peft_config_for_transformers,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedhello.errors import ModelError
from fedhello.model.adapter import HEAD, LoraModel
from fedhello.model.blocks import PAGE, Blocks, find_blocks, find_head
from fedhello.model.images import prepare_as, stated_size
from fedhello.model.loading import FoundationModel
from fedhello.model.pooling import NATIVE
from fedhello.model.probe import Calls, check_output_layer, keep_statistics, made_up_inputs, probe
from fedhello.model.sources import CAUSAL_LM, IMAGES, TENSORS, Kind
from fedhello.model.targets import (
    adaptable,
    attention_parts,
    check_targets,
    find_all_linear,
    find_attention,
    find_attention_qv,
    find_named,
    left_out,
)

ATTENTION_QV: Final = "attention-qv"
ATTENTION: Final = "attention"
ALL_LINEAR: Final = "all-linear"


TARGETS: dict[str, Callable[[nn.Module, Blocks], list[str]]] = {
    ATTENTION_QV: find_attention_qv,
    ATTENTION: find_attention,
    ALL_LINEAR: find_all_linear,
}


TASK_TYPES: dict[Kind, TaskType | None] = {
    "text-classification": TaskType.SEQ_CLS,
    "image-classification": None,  # PEFT has no type for it; those for text name inputs that image models lack
    "tensor-classification": None,
    "causal-lm": TaskType.CAUSAL_LM,
}


FEATURES: dict[Kind, TaskType | None] = {
    "text-classification": TaskType.FEATURE_EXTRACTION,
    "image-classification": None,
    "tensor-classification": None,
    "causal-lm": TaskType.CAUSAL_LM,
}
"""PEFT's task types if the head is not part of the foundation model."""


Admit = Callable[[int], None]
"""Raises if an adapter of a number of float32 values may not be made."""


PEFT_HEADS = ("classifier", "score")
"""Heads that PEFT saves by itself for sequence classification."""


def attach_lora(
    base: FoundationModel,
    *,
    num_labels: int | None,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str],
    seed: int,
    rslora: bool = False,
    dora: bool = False,
    admit: Admit | None = None,
) -> LoraModel:
    """Inject LoRA, h = W₀x + s·B A x, into the targeted linear layers of every block, and make the head trainable.

    Factors and head are float32, whatever type the frozen weights have.

    Args:
        base: The foundation model.
        num_labels: C, the number of classes of the head; None for a language model, which has no head.
        rank: r. A has shape (r, d_in) and starts random; B has shape (d_out, r) and starts at zero.
        alpha: α; the scale s is α/r.
        dropout: Dropout of the LoRA input, in [0, 1).
        targets: ``attention-qv``, ``attention``, ``all-linear``, or the last names of the linear layers to target.
        seed: For A's values; the global random state does not change.
        rslora: Make the scale α/√r (Kalajdzievski, arXiv 2312.03732).
        dora: Also train a magnitude per output of each targeted layer (Liu et al., DoRA, ICML 2024).
        admit: Called with the number of the factors' and magnitudes' values, before they are made.

    Raises:
        ModelError: If blocks, targets or head cannot be found.
    """
    blocks = find_blocks(base.module)
    keep_statistics(base.module)
    calls = _calls(base, blocks)
    blocks = blocks if calls is None else calls.blocks
    asked = paths = _target_paths(base.module, blocks, targets)
    if calls is not None:
        paths = _reloadable(base.module, adaptable(base.module, paths, calls.linear))
        check_targets(base.module, blocks, asked, paths, named=targets != ALL_LINEAR)
    if admit is not None:
        admit(sum(_values(base.module.get_submodule(path), rank, dora) for path in paths))
    head, logits_path = _head_of(base, num_labels)
    task_type = TASK_TYPES[base.kind] if base.pooling == NATIVE else FEATURES[base.kind]
    named_by_peft = PEFT_HEADS if task_type == TaskType.SEQ_CLS else ()
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT annotates an int and accepts any number
        lora_dropout=dropout,
        target_modules=_shortest(base.module, paths),
        # PEFT adds its own usual names of heads for this task; naming one twice would save it twice.
        modules_to_save=[name for name in head if name not in named_by_peft] or None,
        task_type=task_type,
        fan_in_fan_out=all(isinstance(base.module.get_submodule(path), Conv1D) for path in paths),
        use_rslora=rslora,
        use_dora=dora,
    )
    if base.quantisation != "none":
        prepare_model_for_kbit_training(base.module, use_gradient_checkpointing=False)
    _check_head(base.module, head)
    _let_head_compute_in_float32(base.module, head)
    untrained = _left_out(base.module, blocks, targets, asked, paths, head)
    model = LoraModel(base, config, blocks, logits_path, seed)
    model.left_out = untrained
    model.passed_over = frozenset() if calls is None else calls.returning_tensors
    return model


def _calls(base: FoundationModel, blocks: Blocks) -> Calls | None:
    """Return what a pass calls; None for a plain module, whose input is not known here."""
    if base.kind == TENSORS:
        return None
    image = None
    if base.kind == IMAGES:
        # Whether images of another size fit is checked with the data.
        config = base.module.config
        made = prepare_as(base.processor, config, base.source.base_name).shape
        image = (made[0], *(stated_size(config) or made[1:]))
    inputs = made_up_inputs(base.module, image)
    if base.kind == CAUSAL_LM:
        check_output_layer(base.module, inputs)
    return probe(base.module, blocks, inputs)


def _reloadable(module: Any, paths: Sequence[str]) -> list[str]:
    """Return the paths whose adapters PEFT reads back under the names that it writes.

    transformers 5 fuses and renames parts of some model types, such as experts, and PEFT rewrites the names that they
    had before, also where other layers have them: it would adapt the fused parameters at another rank, or leave an
    adapter unread.
    """
    kept = {leaf for leaf in {path.rpartition(".")[2] for path in paths} if not _is_rewritten(module, leaf)}
    named = {f"base_model.model.{path}.lora_A.weight": path for path in paths if path.rpartition(".")[2] in kept}
    written = {name: torch.empty(1, 1) for name in named}
    read = convert_peft_adapter_state_dict_for_transformers(module, LoraConfig(target_modules=list(paths)), written)
    return [path for name, path in named.items() if name in read]


def _is_rewritten(module: Any, leaf: str) -> bool:
    config: Any = LoraConfig(target_modules=[leaf])
    try:
        convert_peft_config_for_transformers(config, module, None)
    except ValueError:  # one of several that are fused together
        return True
    return set(config.target_modules) != {leaf}


def _check_head(module: nn.Module, head: Sequence[str]) -> None:
    """Check that a head has trainable values only.

    Raises:
        ModelError: If it has statistics of batch normalisation, which are no parameters.
    """
    for name in head:
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.get_submodule(name).modules()):
            raise ModelError(
                f"expected a head of trainable values only; {type(module).__name__} normalises over batches in {name}. "
                f"{PAGE} lists what works."
            )


def _values(linear: nn.Module, rank: int, dora: bool) -> int:
    """Return how many values the factors and magnitudes of a linear layer have."""
    if isinstance(linear, Conv1D):
        d_in, d_out = linear.weight.shape
    else:
        d_in, d_out = int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]
    return rank * (d_in + d_out) + dora * d_out


def _head_of(base: FoundationModel, num_labels: int | None) -> tuple[list[str], str | None]:
    """Return the names of the head's modules within the foundation model, and the path of its logits layer, if any."""
    if num_labels is None:
        return [], None
    if base.head_path is not None:
        return [base.head_path], base.head_path
    return ([], HEAD) if base.pooling != NATIVE else find_head(base.module, num_labels)


def _target_paths(module: nn.Module, blocks: Blocks, targets: str | Sequence[str]) -> list[str]:
    if not isinstance(targets, str):
        return find_named(module, blocks, list(targets))
    if targets not in TARGETS:
        raise ModelError(
            f"expected model.lora.targets to be {', '.join(TARGETS)} or a list of names; found {targets!r}"
        )
    return TARGETS[targets](module, blocks)


def _left_out(
    module: nn.Module,
    blocks: Blocks,
    targets: str | Sequence[str],
    asked: Sequence[str],
    paths: Sequence[str],
    head: Sequence[str],
) -> str | None:
    """Return a sentence on what the targets cover by their name and have no adapter; see ``left_out``."""
    if targets == ALL_LINEAR:
        return left_out(module, blocks, paths, head)
    if targets == ATTENTION:
        parts = attention_parts(module, blocks)
        return left_out(module, blocks, paths, head, within=parts, called="the attention's weights")
    return left_out(module, blocks, paths, head, within=asked, called="these layers' weights", least=0)


def _let_head_compute_in_float32(module: nn.Module, head: Sequence[str]) -> None:
    """Cast the inputs of a float32 head on a model of another type to float32, as PEFT does for factors."""

    def widened(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)

    for part in map(module.get_submodule, head):
        if any(parameter.dtype != torch.float32 for parameter in part.parameters()):
            part.float().register_forward_pre_hook(widened)


def _shortest(module: nn.Module, paths: Sequence[str]) -> list[str]:
    """Return the targets' last names if these select exactly them, so that the saved config is short."""
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    chosen = {path for path, _ in module.named_modules() if path.rpartition(".")[2] in leaves}  # whatever they are
    return leaves if chosen == set(paths) else sorted(paths)
