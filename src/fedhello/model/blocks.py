"""Find a model's blocks and head by structure, never by substring.

A block list is an ``nn.ModuleList`` (or ``nn.Sequential``) whose members hold linear projections: modules of one class,
or of several that transformers marks as its layers, as in hybrids of attention and state spaces. A member that only
holds such a list itself is a stage, as in Swin, and the blocks are those of its list. The blocks of several lists, as
of an encoder and a decoder, follow each other in the order of the module tree. Block numbers are the positions of whole
paths, so block 1 is not confused with block 10, and digits elsewhere in a name are ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from fedhello.errors import ModelError

PROJECTIONS = (nn.Linear, Conv1D)
QUERY_NAMES = frozenset({"query", "q_proj", "q_lin", "query_proj", "q"})
VALUE_NAMES = frozenset({"value", "v_proj", "v_lin", "value_proj", "v"})
FUSED_NAMES = frozenset({"c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv", "in_proj", "att_proj"})
"""Projections that compute query, key and value at once."""

PAGE = "docs/reference/architectures.md"
"""The page that lists which architectures work."""

TOKENS = ("input_ids", "inputs_embeds", "inputs", "decoder_input_ids")
"""Main inputs of parts of a model that read texts."""


@dataclass(frozen=True)
class Blocks:
    """A model's blocks.

    Attributes:
        paths: The dotted path of each block, from input to output, for example ``bert.encoder.layer.0``.
    """

    paths: tuple[str, ...]

    @property
    def count(self) -> int:
        """L."""
        return len(self.paths)

    @property
    def lists(self) -> tuple[str, ...]:
        """The dotted paths of the lists that hold them; one for most models."""
        return tuple(dict.fromkeys(path.rpartition(".")[0] for path in self.paths))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {path: l for l, path in enumerate(self.paths)}

    def index(self, name: str) -> int | None:
        """Return the block that contains a dotted name below the model's root, or None outside the blocks."""
        parts = name.split(".")
        found = (self._numbers.get(".".join(parts[:n])) for n in range(1, len(parts)))
        return next((l for l in found if l is not None), None)


def find_blocks(model: nn.Module) -> Blocks:
    """Find the blocks: the members of the outermost lists of modules with linear layers inside.

    Raises:
        ModelError: If there is no such list; if a plain module has several, such as an encoder's and a decoder's, whose
            order is not known; or if blocks share weights.
    """
    found = _found(model)
    if not found:
        raise _no_blocks(model)
    lists = dict.fromkeys(outermost for _, outermost in found)
    if len(lists) > 1 and not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"expected one list of transformer blocks; {type(model).__name__} has {len(lists)}: "
            f"{', '.join(f'{path} ({len(model.get_submodule(path))} blocks)' for path in lists)}. "  # type: ignore[arg-type]
            "Put all blocks into one nn.ModuleList, in the order in which they are called."
        )
    paths = tuple(path for path, _ in found)
    _check_apart(model, paths)
    return Blocks(paths)


def find_head(model: nn.Module, num_labels: int) -> tuple[list[str], str]:
    """Find the classification head: the parts of the model outside its base, down to the last linear layer.

    A part that contains blocks is never one of the head, whatever it is called.

    Args:
        model: A transformers model for classification.
        num_labels: C, the number of classes and of outputs of the last linear layer.

    Returns:
        The names of the head's modules (children of the model), and the dotted path of the linear layer that maps the
        features to the logits.

    Raises:
        ModelError: If there is no such layer.
    """
    base = getattr(model, "base_model_prefix", "")
    trunk = {base} | {path.split(".", 1)[0] for path, _ in _found(model)}
    head = [
        name for name, child in model.named_children() if name not in trunk and any(True for _ in child.parameters())
    ]
    linears = [
        path
        for path, module in model.named_modules()
        if path.split(".", 1)[0] in head and isinstance(module, nn.Linear) and module.out_features == num_labels
    ]
    if not linears:
        raise ModelError(
            f"expected a head that ends in a linear layer with {num_labels} outputs; {type(model).__name__} has "
            f"{', '.join(head) or 'no module'} outside {base or 'its base'}. {PAGE} lists what works."
        )
    owners = {path.split(".", 1)[0] for path in linears if path in head}
    if len(owners) > 1:
        raise ModelError(
            f"expected one linear layer that computes the logits; {type(model).__name__} has {len(owners)} and "
            f"combines them: {', '.join(sorted(owners))}. Use the same model with one head, or save only its base."
        )
    return head, linears[-1]


def are_alike(blocks: Blocks, modules: Sequence[nn.Module]) -> bool:
    """Whether blocks are in one list and have weights of the same shapes, so that one costs as much as another.

    Tables that only the first block has, as T5's of relative positions, do not count.
    """

    def shapes(block: nn.Module) -> list[tuple[str, torch.Size]]:
        tables = {id(part.weight) for part in block.modules() if isinstance(part, nn.Embedding)}
        return [(name, p.shape) for name, p in block.named_parameters() if p.dim() > 1 and id(p) not in tables]

    return len(blocks.lists) == 1 and all(shapes(block) == shapes(modules[0]) for block in modules)


def linear_layers(model: nn.Module, path: str) -> list[str]:
    """Return the dotted paths, below the model, of the linear layers below a path that are called.

    The output projection of torch's own attention is not called: its weights are read directly.
    """
    inside = dict(model.get_submodule(path).named_modules())
    return [
        f"{path}.{name}"
        for name, module in inside.items()
        if name
        and isinstance(module, PROJECTIONS)
        and not isinstance(inside[name.rpartition(".")[0]], nn.MultiheadAttention)
    ]


def _found(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """Return the path of each block with that of the outermost list it is in."""
    if not isinstance(model, PreTrainedModel):
        return tuple(_Search(None, 1, attention=True).below(model))
    # A transformer block has at least the projections of its attention and of its feed-forward part.
    searches = (_Search(model.main_input_name, 3), _Search(model.main_input_name, 1), _Search(None, 1))
    return next((found for search in searches if (found := tuple(search.below(model)))), ())


@dataclass(frozen=True)
class _Search:
    """A search for blocks.

    Attributes:
        reads: The model's main input; towers for another one, such as for images in a model of texts, are passed over.
            None passes over none.
        least: The fewest linear layers in each member of an outermost list, if transformers does not mark them.
        attention: Whether only lists of modules with attention make a stage of what holds them.
    """

    reads: str | None
    least: int
    attention: bool = False

    def below(self, module: nn.Module, path: str = "", outermost: str = "") -> Iterator[tuple[str, str]]:
        """Yield the path of each block below a module, in the order of the module tree, and of its outermost list."""
        for name, child in module.named_children():
            here = f"{path}.{name}" if path else name
            if self._reads_something_else(child):
                continue
            if self._is_block_list(child, name, 1 if outermost else self.least):
                yield from self._members(child, here, outermost or here)
            else:
                yield from self.below(child, here, outermost)

    def _members(self, blocks: nn.Module, path: str, outermost: str) -> Iterator[tuple[str, str]]:
        """Yield the members of a list, or for stages the blocks inside."""
        members: Any = blocks._modules.items()  # a member that is there twice counts twice
        for name, member in members:
            here = f"{path}.{name}"
            nested = self._is_block_list(member, name, 1)
            inner = tuple((self._members if nested else self.below)(member, here, outermost))
            yield from inner if self._is_stage(member, here, inner) else ((here, outermost),)

    def _reads_something_else(self, module: nn.Module) -> bool:
        if self.reads is None or not isinstance(module, PreTrainedModel):
            return False
        own, texts = module.main_input_name, self.reads in TOKENS
        return own not in TOKENS if texts else own != self.reads

    def _is_block_list(self, module: nn.Module, name: str, least: int) -> bool:
        """Whether a module is a list whose members are blocks, or stages of blocks."""
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) == 0 or name == "experts":
            return False
        members = list(module)
        if all(isinstance(member, GradientCheckpointingLayer) for member in members):
            return all(map(_projections, members))
        return all(type(member) is type(members[0]) and _projections(member) >= least for member in members)

    def _is_stage(self, member: nn.Module, path: str, inner: tuple[tuple[str, str], ...]) -> bool:
        """Whether a member of a list only holds blocks: all its linear layers are theirs, but for one between stages.

        The list of a T5 block holds its different parts, and a list of experts has attention beside it.
        """
        below = [member.get_submodule(name.removeprefix(f"{path}.")) for name, _ in inner]
        if not below or (self.attention and not _attends(below[0])):
            return False
        inside = {id(part) for block in below for part in block.modules()}
        return sum(isinstance(part, PROJECTIONS) and id(part) not in inside for part in member.modules()) <= 1


def _projections(module: nn.Module) -> int:
    return sum(isinstance(part, PROJECTIONS) for part in module.modules() if part is not module)


def _attends(module: nn.Module) -> bool:
    leaves = {name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, PROJECTIONS)}
    return bool((leaves & QUERY_NAMES and leaves & VALUE_NAMES) or leaves & FUSED_NAMES)


def _check_apart(model: nn.Module, paths: tuple[str, ...]) -> None:
    """Check that no two blocks share weights, so that one can train while another is frozen."""
    first: dict[int, str] = {}
    for path in paths:
        for weight in model.get_submodule(path).parameters():
            other = first.setdefault(id(weight), path)
            if other != path:
                how = f"Use a model whose blocks have weights of their own; {PAGE} lists what works."
                if not isinstance(model, PreTrainedModel):
                    how = "Construct each block separately: nn.ModuleList([Block() for _ in range(n)])."
                raise ModelError(
                    "expected blocks that share no weights, so that one can train while another is frozen; "
                    f"{other} and {path} share weights. {how}"
                )


def _no_blocks(model: nn.Module) -> ModelError:
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        children = ", ".join(f"{name} ({type(child).__name__})" for name, child in model.named_children())
        return ModelError(
            f"expected a transformer with a list of blocks of one class; {name} has none "
            f"(its parts: {children}). Use a model whose blocks are an nn.ModuleList."
        )
    convolves = any(isinstance(part, (nn.Conv1d, nn.Conv2d)) for part in model.modules())
    what = "is made of convolutions" if convolves else "has no list of them"
    return ModelError(
        f"expected a model with a list of blocks that have linear layers, into which LoRA is put; {name} {what}. "
        f"Use a transformer; {PAGE} lists what works."
    )
