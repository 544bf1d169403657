"""Leave blocks out of a model, for a while."""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def without_members(model: nn.Module, path: str, gone: Set[str], passed: Set[str]) -> Iterator[None]:
    """Leave members, named by their dotted paths, out of a list inside the context.

    Args:
        model: The model.
        path: The dotted path of the list.
        gone: The members to leave out; others than those of this list are ignored.
        passed: Those of them that hand on their input in their place, so that the others keep their positions, by which
            a model may choose their masks. The rest is taken out of the list.
    """
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    whole: Any = getattr(owner, name)
    members = {f"{path}.{number}": member for number, member in whole._modules.items()}
    rest = [
        _Passing(member) if at in gone & passed else member for at, member in members.items() if at not in gone - passed
    ]
    setattr(owner, name, nn.Sequential(*rest) if isinstance(whole, nn.Sequential) else nn.ModuleList(rest))
    try:
        yield
    finally:
        setattr(owner, name, whole)


class _Passing(nn.Module):
    """Stands for a block that is left out: returns its first input, and has the block's other attributes."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["_block"] = block  # no part of this module, so that its weights are not found in the model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
