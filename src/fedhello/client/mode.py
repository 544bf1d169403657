"""In which mode a model trains: which blocks it has, where dropout is active, and what its masks are drawn from."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from fedhello.model.adapter import LoraModel
from fedhello.model.below import modules_below


@contextmanager
def surroundings(model: LoraModel, absent: Sequence[int], dropout: int) -> Iterator[None]:
    """Leave out absent blocks, and draw dropout masks from a seed; the global random state stays as it was.

    Args:
        model: The model.
        absent: The blocks that are left out.
        dropout: The seed.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with model.without_blocks(absent) if absent else nullcontext(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(dropout)
        yield


def lowest_trained(model: LoraModel, names: Iterable[str]) -> int:
    """Return the lowest block of some tensors; L if all of them are the head's.

    Args:
        model: The model.
        names: The tensors.
    """
    blocks = (model.block_of[name] for name in names)
    return min((block for block in blocks if block is not None), default=model.blocks.count)


def set_training(model: LoraModel, lowest: int) -> None:
    """Put a model into training mode; without ``frozen_dropout`` all but what stands below the lowest trained block.

    In evaluation mode, that is without dropout, it computes the same for a sample in each pass.

    Args:
        model: The model.
        lowest: The lowest block that trains; L if only the head does.
    """
    model.module.train()
    if not model.frozen_dropout:
        for module in modules_below(model, lowest):
            module.training = False
