"""Find a model's transformer blocks, attention projections and head by structure, never by substring.

A block list is an ``nn.ModuleList`` (or ``nn.Sequential``) of modules of one class, each of which holds linear
projections. Numbers are parsed from the module path right behind the list's path, so block 1 is never confused
with block 10, and digits elsewhere in a name mean nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedhello.errors import ModelError

PROJECTIONS = (nn.Linear, Conv1D)
QUERY_NAMES = frozenset({"query", "q_proj", "q_lin", "query_proj", "q"})
VALUE_NAMES = frozenset({"value", "v_proj", "v_lin", "value_proj", "v"})


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
        ModelError: If there is none, or several of equal rank, such as an encoder's and a decoder's.
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
    return Blocks(path, len(modules))


def find_attention_qv(model: nn.Module, blocks: Blocks) -> list[str]:
    """Return the dotted paths of the query and value projections of every block (LoRA's own choice).

    Raises:
        ModelError: If some block has no projection of either kind; the message lists what it has.
    """
    paths = []
    for i in range(blocks.count):
        block_path = f"{blocks.path}.{i}"
        projections = {
            name: name.rpartition(".")[2]
            for name, module in model.get_submodule(block_path).named_modules()
            if isinstance(module, PROJECTIONS)
        }
        leaves = set(projections.values())
        if not (leaves & QUERY_NAMES and leaves & VALUE_NAMES):
            raise ModelError(
                f"expected a query and a value projection in each block; block {i} of {type(model).__name__} has "
                f"{', '.join(projections) or 'no linear layer'}. Name the modules in model.lora.targets."
            )
        paths += [f"{block_path}.{name}" for name, leaf in projections.items() if leaf in QUERY_NAMES | VALUE_NAMES]
    return paths


def find_named(model: nn.Module, blocks: Blocks, targets: list[str]) -> list[str]:
    """Return the dotted paths of the linear layers inside the blocks whose last name is among ``targets``.

    Raises:
        ModelError: If one of the targets is found in no block.
    """
    linear = {
        path: path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, PROJECTIONS) and blocks.index(path) is not None
    }
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
    return head, linears[-1]


def _block_lists(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    for path, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) == 0:
            continue
        members = list(module)
        like = all(type(member) is type(members[0]) for member in members)
        # A transformer block has at least the projections of its attention and of its feed-forward part.
        if like and all(_projections(member) >= 3 for member in members):
            yield path, members


def _projections(module: nn.Module) -> int:
    return sum(isinstance(part, PROJECTIONS) for part in module.modules() if part is not module)
