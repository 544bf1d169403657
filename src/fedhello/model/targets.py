"""Find the linear layers that get an adapter, and name the weights that a target set leaves out."""

import re
from collections.abc import Collection, Sequence

from torch import nn

from fedhello.errors import ModelError
from fedhello.model.blocks import FUSED_NAMES, QUERY_NAMES, VALUE_NAMES, Blocks, linear_layers

MANY = 0.05
"""The share of a model's weights from which on a part without adapter is named."""


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
    for i, block_path in enumerate(blocks.paths):
        parts = tuple(f"{part}." for part in _attention_parts(model, blocks, i))
        paths += [path for path in linear_layers(model, block_path) if path.startswith(parts)]
    return paths


def attention_parts(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of every block's attention, as in ``find_attention``."""
    return [part for i in range(blocks.count) for part in _attention_parts(model, blocks, i)]


def _attention_parts(model: nn.Module, blocks: Blocks, i: int) -> list[str]:
    projections = _attention_projections(model, blocks, i)
    parts = {_part(model, blocks.paths[i], path) for path in projections}
    if not parts or parts & set(projections):
        raise _no_attention(model, blocks, i, [])
    return sorted(parts)


def find_all_linear(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of all linear layers of every block."""
    return [path for i in range(blocks.count) for path in linear_layers(model, blocks.paths[i])]


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


def _attention_projections(model: nn.Module, blocks: Blocks, i: int) -> list[str]:
    """Return the paths of block i's query and value projections, or of the fused one; empty if it has none."""
    linear = [path for path in linear_layers(model, blocks.paths[i]) if not _in_state_space(model, path)]
    leaves = {path.rpartition(".")[2] for path in linear}
    wanted = QUERY_NAMES | VALUE_NAMES if leaves & QUERY_NAMES and leaves & VALUE_NAMES else FUSED_NAMES
    return [path for path in linear if path.rpartition(".")[2] in wanted]


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
    block_path = blocks.paths[i]
    names = ", ".join(path.removeprefix(block_path + ".") for path in linear_layers(model, block_path))
    return ModelError(
        f"expected a query and a value projection in each block; {where} has {names or 'no linear layer'}. "
        "Name the modules in model.lora.targets, or set it to all-linear."
    )


def adaptable(model: nn.Module, paths: Sequence[str], called: Collection[str]) -> list[str]:
    """Return those of the linear layers that an adapter can be put into.

    A layer whose weight is read directly, or that returns several tensors as some routers do, cannot have one. Of
    experts in a list, one that is called stands for all.

    Args:
        model: The model.
        paths: Dotted paths of linear layers.
        called: Those that a pass calls and that return one tensor.
    """
    known = {_unnumbered(path) for path in called}
    return [path for path in paths if _unnumbered(path) in known and not _is_read_by_a_kernel(model, path)]


def check_targets(model: nn.Module, blocks: Blocks, asked: Sequence[str], paths: Sequence[str], named: bool) -> None:
    """Check that each block has a layer that gets an adapter, without which it cannot train.

    Args:
        model: The model.
        blocks: Its blocks.
        asked: The layers of the target set.
        paths: Those that get an adapter.
        named: Whether the set names its layers, all of which must get one.

    Raises:
        ModelError: If a block has none, or no layer of a name gets one.
    """
    missing = {path.rpartition(".")[2] for path in asked} - {path.rpartition(".")[2] for path in paths}
    if named and missing:
        raise ModelError(
            f"expected model.lora.targets to name layers that can get an adapter; {', '.join(sorted(missing))} of "
            f"{type(model).__name__} cannot: PEFT takes the name for fused experts, or the weight is read without "
            "calling the layer. Leave it out, or set model.lora.targets=all-linear, which does."
        )
    held = {blocks.index(path) for path in paths}
    for i, path in enumerate(blocks.paths):
        if i not in held:
            names = ", ".join(name.removeprefix(f"{path}.") for name in linear_layers(model, path))
            raise ModelError(
                f"expected each block to have a linear layer among model.lora.targets that can get an adapter; block "
                f"{i} of {type(model).__name__} has none (its linear layers: {names or 'none'}). Set "
                "model.lora.targets=all-linear, or choose another model."
            )


def left_out(
    model: nn.Module,
    blocks: Blocks,
    paths: Sequence[str],
    head: Sequence[str],
    *,
    within: Sequence[str] = ("",),
    called: str = "the weights",
    least: float = MANY,
) -> str | None:
    """Return a sentence on what a target set covers by its name, with many weights, that has no adapter.

    Args:
        model: The model, without adapters.
        blocks: Its blocks.
        paths: The linear layers that get an adapter.
        head: The parts that train as they are.
        within: The dotted paths of what the set covers; by default the whole model.
        called: What to call the weights in them.
        least: The share of these weights from which on a part is named.

    Returns:
        The sentence without a full stop; None if there is no such part.
    """
    covered = tuple(path and f"{path}." for path in within)
    adapted = tuple(f"{path}." for path in paths)
    tables = (part for part in model.modules() if isinstance(part, nn.Embedding))
    embeddings = {id(weight) for part in tables for weight in part.parameters()}
    sizes: dict[str, int] = {}
    total = 0
    for name, weight in model.named_parameters():
        if not name.startswith(covered):
            continue
        size = _size(model.get_submodule(name.rpartition(".")[0]), weight)
        total += size
        if not name.startswith(adapted) and name.split(".", 1)[0] not in head:
            part = "embeddings" if id(weight) in embeddings else _part_name(name, blocks, adapted, covered)
            sizes[part] = sizes.get(part, 0) + size
    large = sorted((part for part, size in sizes.items() if size >= least * total), key=lambda part: -sizes[part])
    if not large:
        return None
    return "no adapter is put into " + ", ".join(f"{part} ({sizes[part] / total:.0%} of {called})" for part in large)


def _size(owner: nn.Module, weight: nn.Parameter) -> int:
    """Return the number of a parameter's weights, also if a quantised layer packs several into one value."""
    packed = isinstance(owner, nn.Linear) and weight.dim() > 1
    return int(owner.in_features * owner.out_features) if packed else weight.numel()  # type: ignore[operator]


def _part_name(name: str, blocks: Blocks, adapted: tuple[str, ...], covered: tuple[str, ...]) -> str:
    """Return what to call weights without an adapter, by a parameter's name: all blocks' alike parts are one.

    The part is the outermost covered one inside the block, or inside the model, that has no adapter at all.
    """
    l = blocks.index(name)
    root = "" if l is None else f"{blocks.paths[l]}."
    names = name.removeprefix(root).split(".")
    if "experts" in names:
        return "the experts"
    trunks = adapted if l is not None else tuple(f"{path}." for path in blocks.paths)
    inside = (".".join(names[:n]) for n in range(1, len(names)))
    free = (part for part in inside if f"{root}{part}.".startswith(covered))
    part = next((part for part in free if not any(path.startswith(f"{root}{part}.") for path in trunks)), None)
    part = re.sub(r"\.\d+(?=\.|$)", "", part or ".".join(names))
    return part if l is None else f"the blocks' {part}"


def _unnumbered(path: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".#", path)


def _is_read_by_a_kernel(model: nn.Module, path: str) -> bool:
    """Whether a layer is the output projection of a state space (Mamba), whose weight fused kernels read directly."""
    return path.endswith(".out_proj") and _in_state_space(model, path)


def _in_state_space(model: nn.Module, path: str) -> bool:
    owner = model.get_submodule(path.rpartition(".")[0])
    return hasattr(owner, "A_log") and hasattr(owner, "D")
