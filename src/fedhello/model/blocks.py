"""Find a model's transformer blocks, attention projections and head by structure, never by substring.

A block list is an ``nn.ModuleList`` (or ``nn.Sequential``) of modules of one class, each of which holds linear
projections. Numbers are parsed from the module path right behind the list's path, so block 1 is never confused
with block 10, and digits elsewhere in a name mean nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedhello.errors import ModelError

PROJECTIONS = (nn.Linear, Conv1D)
QUERY_NAMES = frozenset({"query", "q_proj", "q_lin", "query_proj", "q"})
VALUE_NAMES = frozenset({"value", "v_proj", "v_lin", "value_proj", "v"})
FUSED_NAMES = frozenset({"c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv", "in_proj", "att_proj"})
"""Projections that compute query, key and value at once."""


@dataclass(frozen=True)
class Blocks:
    """Where a model's blocks are.

    Attributes:
        path: Dotted path of the block list, for example ``bert.encoder.layer``.
        count: L.
    """

    path: str
    count: int

    def index(self, name: str) -> int | None:
        """Return the block that a dotted name below the model's root lies in, or None outside the blocks."""
        prefix = self.path + "."
        if not name.startswith(prefix):
            return None
        return int(name.removeprefix(prefix).split(".", 1)[0])


def find_blocks(model: nn.Module) -> Blocks:
    """Find the list of transformer blocks: the outermost list of like modules.

    Raises:
        ModelError: If there is none, or several of equal rank, such as an encoder's and a decoder's, or if its members
            are stages: lists of blocks in their turn, as in Swin; or if blocks share weights.
    """
    candidates = dict(_block_lists(model))
    outermost = {
        path: modules
        for path, modules in candidates.items()
        if not any(path.startswith(other + ".") for other in candidates)
    }
    if not outermost:
        children = ", ".join(f"{name} ({type(child).__name__})" for name, child in model.named_children())
        raise ModelError(
            f"expected a transformer with a list of blocks of one class; {type(model).__name__} has none "
            f"(its parts: {children}). Use a model whose blocks are an nn.ModuleList."
        )
    if len(outermost) > 1:
        found = ", ".join(f"{path} ({len(modules)} blocks)" for path, modules in outermost.items())
        raise ModelError(
            f"expected one list of transformer blocks; {type(model).__name__} has {len(outermost)}: {found}. "
            "Encoder-decoder and staged models are not supported."
        )
    path, modules = next(iter(outermost.items()))
    # Experts are lists inside a block, too, but hold no attention.
    inner = [other for other, members in candidates.items() if other != path and _attends(members[0])]
    if len(modules) > 1 and inner:
        raise ModelError(
            f"expected blocks of one shape, one after the other; {type(model).__name__} has {len(modules)} stages "
            f"({path}), each with blocks of its own width ({inner[0]}, …), so a block's share of the work and the "
            "memory says nothing about another's. Use a model without stages, such as ViT, DeiT or DINOv2."
        )
    _check_apart(path, modules)
    return Blocks(path, len(modules))


def find_attention_qv(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of the query and value projections of every block (LoRA's own choice).

    Where one projection computes query, key and value at once, as GPT-2's ``c_attn``, there is no such choice: LoRA on
    it would adapt the keys, too, which is not what was asked for. So it is refused, with what to ask for instead.

    Raises:
        ModelError: If some block has no projection of either kind; the message lists what it has.
    """
    paths = []
    for i in range(blocks.count):
        found = _attention_projections(model, blocks, i)
        if not found or any(path.rpartition(".")[2] in FUSED_NAMES for path in found):
            raise _no_attention(model, blocks, i, found)
        paths += [path for path in found if path.rpartition(".")[2] in QUERY_NAMES | VALUE_NAMES]
    return paths


def find_attention(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of all linear layers of every block's attention, the one of its output included.

    A block's attention is the outermost part of it that holds the query and value projections, or the fused one.

    Raises:
        ModelError: If some block has no such part; the message lists what it has.
    """
    paths = []
    for i in range(blocks.count):
        block_path = f"{blocks.path}.{i}"
        projections = _attention_projections(model, blocks, i)
        parts = {_part(model, block_path, path) for path in projections}
        if not parts or parts & set(projections):
            raise _no_attention(model, blocks, i, [])
        paths += [path for path in _linear(model, block_path) if any(path.startswith(part + ".") for part in parts)]
    return paths


def find_all_linear(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of all linear layers of every block."""
    return [path for i in range(blocks.count) for path in _linear(model, f"{blocks.path}.{i}")]


def find_named(model: nn.Module, blocks: Blocks, targets: list[str]) -> list[str]:
    """Return the dotted paths of the linear layers inside the blocks whose last name is among ``targets``.

    Raises:
        ModelError: If one of the targets is found in no block.
    """
    linear = {path: path.rpartition(".")[2] for path in find_all_linear(model, blocks)}
    missing = sorted(set(targets) - set(linear.values()))
    if missing:
        raise ModelError(
            f"expected model.lora.targets to name linear layers of the blocks; {', '.join(missing)} not found. "
            f"The blocks have: {', '.join(sorted(set(linear.values())))}."
        )
    return [path for path, leaf in linear.items() if leaf in targets]


def find_head(model: nn.Module, classes: int) -> tuple[list[str], str]:
    """Find the classification head: the parts of the model outside its base, down to the last linear layer.

    Args:
        model: A transformers model for classification.
        classes: The number of classes, hence of outputs of the last linear layer.

    Returns:
        The names of the head's modules (children of the model), and the dotted path of the linear layer whose
        input is the pooled feature and whose output are the logits.

    Raises:
        ModelError: If there is no such layer.
    """
    base = getattr(model, "base_model_prefix", "")
    head = [name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())]
    linears = [
        path
        for path, module in model.named_modules()
        if path.split(".", 1)[0] in head and isinstance(module, nn.Linear) and module.out_features == classes
    ]
    if not linears:
        raise ModelError(
            f"expected a head that ends in a linear layer with {classes} outputs; {type(model).__name__} has "
            f"{', '.join(head) or 'no module'} outside {base or 'its base'}."
        )
    owners = {path.split(".", 1)[0] for path in linears if path in head}
    if len(owners) > 1:
        raise ModelError(
            f"expected one linear layer that makes the logits; {type(model).__name__} has {len(owners)} and combines "
            f"them: {', '.join(sorted(owners))}. Use the same model with one head, or save its base alone."
        )
    return head, linears[-1]


def _check_apart(path: str, modules: list[nn.Module]) -> None:
    """Check that every block has weights of its own, so that one can train where another is frozen."""
    first: dict[int, int] = {}
    for l, module in enumerate(modules):
        for weight in module.parameters():
            other = first.setdefault(id(weight), l)
            if other != l:
                raise ModelError(
                    f"expected blocks with weights of their own, so that one can train where another is frozen; "
                    f"{path}.{other} and {path}.{l} share theirs. Make each block anew: "
                    "nn.ModuleList([Block() for _ in range(n)])."
                )


def _block_lists(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    # A transformer block has at least the projections of its attention and of its feed-forward part.
    least = 3 if isinstance(model, PreTrainedModel) else 1
    for path, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) == 0:
            continue
        members = list(module)
        like = all(type(member) is type(members[0]) for member in members)
        if like and all(_projections(member) >= least for member in members):
            yield path, members


def _projections(module: nn.Module) -> int:
    return sum(isinstance(part, PROJECTIONS) for part in module.modules() if part is not module)


def _linear(model: nn.Module, path: str) -> list[str]:
    """Return the dotted paths, below the model, of the linear layers below a path, but for those that are not called.

    torch's own attention reads the weights of its output projection.
    """
    inside = dict(model.get_submodule(path).named_modules())
    return [
        f"{path}.{name}"
        for name, module in inside.items()
        if name
        and isinstance(module, PROJECTIONS)
        and not isinstance(inside[name.rpartition(".")[0]], nn.MultiheadAttention)
    ]


def _attention_projections(model: nn.Module, blocks: Blocks, i: int) -> list[str]:
    """Return the paths of block i's query and value projections, or of the fused one; empty where it has neither."""
    linear = _linear(model, f"{blocks.path}.{i}")
    leaves = {path.rpartition(".")[2] for path in linear}
    wanted = QUERY_NAMES | VALUE_NAMES if leaves & QUERY_NAMES and leaves & VALUE_NAMES else FUSED_NAMES
    return [path for path in linear if path.rpartition(".")[2] in wanted]


def _attends(module: nn.Module) -> bool:
    leaves = {name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, PROJECTIONS)}
    return bool((leaves & QUERY_NAMES and leaves & VALUE_NAMES) or leaves & FUSED_NAMES)


def _part(model: nn.Module, block_path: str, path: str) -> str:
    """Return the outermost part of a block that a path lies in; what is merely a list of parts is none itself."""
    names = path.removeprefix(block_path + ".").split(".")
    part = f"{block_path}.{names[0]}"
    if isinstance(model.get_submodule(part), nn.ModuleList):
        part += f".{names[1]}"
    return part


def _no_attention(model: nn.Module, blocks: Blocks, i: int, fused: list[str]) -> ModelError:
    where = f"block {i} of {type(model).__name__}"
    if fused:
        leaf = fused[0].rpartition(".")[2]
        return ModelError(
            f"expected a query and a value projection in each block; {where} computes both, and the key, with one: "
            f"{leaf}. Set model.lora.targets=attention for all of its attention, or model.lora.targets=[{leaf}]."
        )
    block_path = f"{blocks.path}.{i}"
    names = ", ".join(path.removeprefix(block_path + ".") for path in _linear(model, block_path))
    return ModelError(
        f"expected a query and a value projection in each block; {where} has {names or 'no linear layer'}. "
        "Name the modules in model.lora.targets, or set it to all-linear."
    )
