"""Run a model on a made-up sample before it gets an adapter: what it calls, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from fedhello.errors import ModelError
from fedhello.model.blocks import PAGE, PROJECTIONS, Blocks

TOKENS = 8
"""Length of a made-up text."""


@dataclass(frozen=True)
class Calls:
    """What a pass through a model calls.

    Attributes:
        blocks: The blocks that are called and matter for the output, in the order of their first call.
        returning_tensors: Those that return one tensor.
        linear: Dotted paths of the linear layers that are called and return one tensor, as an adapter needs.
    """

    blocks: Blocks
    returning_tensors: frozenset[str]
    linear: frozenset[str]


def made_up_inputs(module: Any, image: tuple[int, int, int] | None) -> dict[str, Tensor]:
    """Return two made-up samples on the model's device.

    Args:
        module: A transformers model.
        image: Channels, height and width of its images; None for texts.
    """
    if image is not None:
        return {"pixel_values": torch.zeros(2, *image, dtype=module.dtype, device=module.device)}
    mask = torch.ones(2, TOKENS, dtype=torch.int64, device=module.device)
    return {"input_ids": ended(module.config, torch.full_like(mask, 3), mask), "attention_mask": mask}


def ended(config: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return texts whose last token is the end-of-text token, at which an encoder-decoder's own classifier looks.

    Args:
        config: The model's configuration; texts for models that are no encoder-decoders stay as they are.
        ids: Tokens, int64, shape (b, T).
        mask: 1 for tokens and 0 for padding on the right, shape (b, T).
    """
    end = getattr(config, "eos_token_id", None)
    if not getattr(config, "is_encoder_decoder", False) or not isinstance(end, int):
        return ids
    last = mask.sum(dim=1) - 1
    return ids.index_put((torch.arange(len(ids), device=ids.device), last), ids.new_tensor(end))


def tried(module: nn.Module, inputs: Mapping[str, Tensor], gradients: bool = False, **options: Any) -> Any:
    """Return a model's output; the random state does not change.

    Args:
        module: The model.
        inputs: A batch.
        gradients: Whether gradients can be computed.
        options: Further arguments of the model.

    Raises:
        ModelError: If the model does not run on these inputs.
    """
    try:
        with torch.set_grad_enabled(gradients), torch.random.fork_rng(devices=[]):
            return module(**inputs, **options)
    except Exception as error:  # a model may raise anything
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"expected a model that runs on {' and '.join(inputs)} alone; {type(module).__name__} raises "
            f"{type(error).__name__}: {reason}. {PAGE} lists what works."
        ) from error


def probe(module: nn.Module, blocks: Blocks, inputs: Mapping[str, Tensor]) -> Calls:
    """Run a model in evaluation and in training mode, and return what it calls; it is left as it was.

    Args:
        module: The model.
        blocks: Its blocks in the order of the module tree.
        inputs: A batch.

    Raises:
        ModelError: If it does not run, or calls none of the blocks.
    """
    called: dict[str, None] = {}
    single: set[str] = set()

    def note_call(path: str) -> Any:
        return lambda *_: called.setdefault(path)

    def note_output(path: str) -> Any:
        return lambda part, entering, made: single.add(path) if _is_one_product(part, entering, made) else None

    linear = [path for path, part in module.named_modules() if isinstance(part, PROJECTIONS)]
    handles = [module.get_submodule(path).register_forward_pre_hook(note_call(path)) for path in blocks.paths]
    handles += [
        module.get_submodule(path).register_forward_hook(note_output(path)) for path in (*linear, *blocks.paths)
    ]
    was_training = module.training
    try:
        module.train()
        tried(module, inputs)
        matter = _that_matter(module, list(called), inputs)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    if not matter:
        raise ModelError(
            f"expected a model whose output depends on its blocks; that of {type(module).__name__} depends on none of "
            f"{', '.join(blocks.lists)}. {PAGE} lists what works."
        )
    return Calls(Blocks(tuple(matter)), frozenset(single & set(matter)), frozenset(single & set(linear)))


def _is_one_product(part: nn.Module, entering: tuple[Any, ...], made: Any) -> bool:
    """Whether a module returns one tensor; a linear layer also one of the shape of a product with its weight."""
    if not isinstance(made, Tensor) or not isinstance(part, PROJECTIONS):
        return isinstance(made, Tensor)
    d_in, d_out = (part.in_features, part.out_features) if isinstance(part, nn.Linear) else part.weight.shape
    return bool(entering) and (*entering[0].shape[:-1], d_out) == made.shape and entering[0].shape[-1] == d_in


def _that_matter(module: nn.Module, paths: Sequence[str], inputs: Mapping[str, Tensor]) -> list[str]:
    """Return the blocks on which the output depends: those with a gradient for one of their small parameters."""
    small = {weight: path for path in paths for weight in _small(module.get_submodule(path))}
    before = [(weight, weight.requires_grad) for weight in module.parameters()]
    try:
        module.requires_grad_(False)
        for weight in small:
            weight.requires_grad_(True)
        gradients = _gradients(module.eval(), list(small), inputs)
        if gradients is None:  # RWKV overwrites its state in evaluation
            gradients = _gradients(module.train(), list(small), inputs)
    finally:
        for weight, required in before:
            weight.requires_grad_(required)
    if gradients is None:
        raise ModelError(
            f"expected a model that can be trained; {type(module).__name__} has no gradients. {PAGE} lists what works."
        )
    reached = {path for path, gradient in zip(small.values(), gradients, strict=True) if gradient is not None}
    return [path for path in paths if path in reached]


def _gradients(module: nn.Module, weights: list[nn.Parameter], inputs: Mapping[str, Tensor]) -> Any:
    """Return the gradient of the sum of the output for each weight, None where there is none; None if all fail."""
    made = tried(module, inputs, gradients=True)
    total = next(value for value in made.values() if isinstance(value, Tensor)).float().sum()
    if not total.requires_grad:
        return [None] * len(weights)
    try:
        return torch.autograd.grad(total, weights, allow_unused=True)
    except RuntimeError:
        return None


def _small(block: nn.Module) -> list[nn.Parameter]:
    """Return a block's vectors, such as biases; without any, its smallest parameter."""
    known = [weight for weight in block.parameters() if weight.is_floating_point()]
    return [weight for weight in known if weight.dim() == 1] or sorted(known, key=lambda weight: weight.numel())[:1]


def check_output_layer(module: Any, inputs: Mapping[str, Tensor]) -> None:
    """Check that a language model computes each token's logits from the one feature before its output layer.

    Raises:
        ModelError: If it does not.
    """
    layer, seen = module.get_output_embeddings(), []
    handle = None if layer is None else layer.register_forward_pre_hook(lambda _, entering: seen.append(entering[0]))
    try:
        made = tried(module, inputs).logits
    finally:
        if handle is not None:
            handle.remove()
    shape = tuple(inputs["input_ids"].shape)
    if len(seen) != 1 or tuple(seen[0].shape[:-1]) != shape or tuple(made.shape[:-1]) != shape:
        raise ModelError(
            f"expected a language model whose output layer computes the logits of each token once; "
            f"{type(module).__name__} has another one. {PAGE} lists what works."
        )


def without_cache(module: nn.Module) -> list[tuple[Any, bool]]:
    """Switch off the cache of keys and values in a decoder, wherever it is configured; return what was configured.

    Training and scoring do not use it, and a recomputed block would append its keys and values again.
    """
    # A decoder inside a larger model may have a configuration of its own.
    own: list[Any] = [getattr(part, "config", None) for part in module.modules()]
    known = [config for config in own if isinstance(config, PreTrainedConfig)]
    configs = {id(config): config for each in known for config in (each, each.get_text_config())}
    used = [(config, config.use_cache) for config in configs.values() if getattr(config, "use_cache", None) is not None]
    for config, _ in used:
        config.use_cache = False
    return used


def keep_statistics(module: nn.Module) -> None:
    """Keep the running statistics of batch normalisation as they are, since they are part of the frozen model."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
            # As a bound method it is copied with the model.
            part.train = MethodType(_stay, part)  # type: ignore[method-assign]


def _stay(part: nn.Module, mode: bool = True) -> nn.Module:
    return part
