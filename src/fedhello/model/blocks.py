"""Find a model's transformer blocks, attention projections and head by structure, never by substring.

A block list is an ``nn.ModuleList`` (or ``nn.Sequential``) of modules of one class, each of which holds linear
projections. Block numbers are parsed from the module path directly after the list's path, so block 1 is not confused
with block 10, and digits elsewhere in a name are ignored.
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
    """The list of a model's blocks.

    Attributes:
        path: Dotted path of the block list, for example ``bert.encoder.layer``.
        count: L.
    """

    path: str
    count: int

    def index(self, name: str) -> int | None:
        """Return the block that contains a dotted name below the model's root, or None outside the blocks."""
        prefix = self.path + "."
        if not name.startswith(prefix):
            return None
        return int(name.removeprefix(prefix).split(".", 1)[0])


def find_blocks(model: nn.Module) -> Blocks:
    """Find the list of transformer blocks: the outermost list of modules of one class.

    Raises:
        ModelError: If there is no such list, or several, such as an encoder's and a decoder's; if its members are
            stages, that is lists of blocks, as in Swin; or if blocks share weights.
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
    # Experts are also lists inside a block, but without attention.
    inner = [other for other, members in candidates.items() if other != path and _attends(members[0])]
    if len(modules) > 1 and inner:
        raise ModelError(
            f"expected blocks of one shape, one after the other; {type(model).__name__} has {len(modules)} stages "
            f"({path}), each with blocks of a different width ({inner[0]}, …), so costs differ between blocks. Use a "
            "model without stages, such as ViT, DeiT or DINOv2."
        )
    _check_apart(path, modules)
    return Blocks(path, len(modules))


def find_attention_qv(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of the query and value projections of every block (the choice of the LoRA paper).

    If one projection computes query, key and value at once, as GPT-2's ``c_attn``, LoRA on it would also adapt the
    keys. That is an error, whose message names the alternatives.

    Raises:
        ModelError: If some block has no query or no value projection; the message lists its linear layers.
    """
    paths = []
    for i in range(blocks.count):
        found = _attention_projections(model, blocks, i)
        if not found or any(path.rpartition(".")[2] in FUSED_NAMES for path in found):
            raise _no_attention(model, blocks, i, found)
        paths += [path for path in found if path.rpartition(".")[2] in QUERY_NAMES | VALUE_NAMES]
    return paths


def find_attention(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of all linear layers of every block's attention, including its output projection.

    A block's attention is its outermost part that contains the query and value projections, or the fused projection.

    Raises:
        ModelError: If some block has no such part; the message lists its linear layers.
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


def find_head(model: nn.Module, num_labels: int) -> tuple[list[str], str]:
    """Find the classification head: the parts of the model outside its base, down to the last linear layer.

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
    head = [name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())]
    linears = [
        path
        for path, module in model.named_modules()
        if path.split(".", 1)[0] in head and isinstance(module, nn.Linear) and module.out_features == num_labels
    ]
    if not linears:
        raise ModelError(
            f"expected a head that ends in a linear layer with {num_labels} outputs; {type(model).__name__} has "
            f"{', '.join(head) or 'no module'} outside {base or 'its base'}."
        )
    owners = {path.split(".", 1)[0] for path in linears if path in head}
    if len(owners) > 1:
        raise ModelError(
            f"expected one linear layer that computes the logits; {type(model).__name__} has {len(owners)} and "
            f"combines them: {', '.join(sorted(owners))}. Use the same model with one head, or save only its base."
        )
    return head, linears[-1]


def _check_apart(path: str, modules: list[nn.Module]) -> None:
    """Check that no two blocks share weights, so that one can train while another is frozen."""
    first: dict[int, int] = {}
    for l, module in enumerate(modules):
        for weight in module.parameters():
            other = first.setdefault(id(weight), l)
            if other != l:
                raise ModelError(
                    f"expected blocks that share no weights, so that one can train while another is frozen; "
                    f"{path}.{other} and {path}.{l} share weights. Construct each block separately: "
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


def _attention_projections(model: nn.Module, blocks: Blocks, i: int) -> list[str]:
    """Return the paths of block i's query and value projections, or of the fused one; empty if it has none."""
    linear = _linear(model, f"{blocks.path}.{i}")
    leaves = {path.rpartition(".")[2] for path in linear}
    wanted = QUERY_NAMES | VALUE_NAMES if leaves & QUERY_NAMES and leaves & VALUE_NAMES else FUSED_NAMES
    return [path for path in linear if path.rpartition(".")[2] in wanted]


def _attends(module: nn.Module) -> bool:
    leaves = {name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, PROJECTIONS)}
    return bool((leaves & QUERY_NAMES and leaves & VALUE_NAMES) or leaves & FUSED_NAMES)


def _part(model: nn.Module, block_path: str, path: str) -> str:
    """Return the outermost part of a block that contains a path; a mere list of parts does not count as a part."""
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
