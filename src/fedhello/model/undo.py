"""Restore a model in memory if preparing it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def as_it_was_if_failing(model: object) -> Iterator[None]:
    """Restore a user's model, without adapter and new head, if the ``with`` block raises.

    The values of possible heads, which are layers outside an ``nn.ModuleList``, are copied. All other modules and
    weights are recorded by reference, since nothing is written into them.

    Args:
        model: The model; an object that is not a module is ignored.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    before = [_noted(vars(part)) for part in model.modules()]
    configuration: Any = getattr(model, "config", None)
    if hasattr(configuration, "__dict__"):
        before.append(_noted(vars(configuration)))
    weights = [(weight, weight.data, weight.grad, weight.requires_grad) for weight in model.parameters()]
    values = [(weight.data, weight.detach().clone()) for weight in _heads(model)]
    try:
        yield
    except BaseException:
        for held, noted, tables in before:
            held.clear()
            held.update(noted)
            for table, entries in tables:
                table.clear()
                table.update(entries)
        for weight, data, grad, trains in weights:
            weight.data = data
            weight.grad = grad
            weight.requires_grad_(trains)
        for data, value in values:
            data.copy_(value)
        raise


def _noted(held: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[tuple[Any, Any]]]:
    """Return an object's attributes, a copy of them, and copies of the tables among them: modules, weights, hooks."""
    return held, dict(held), [(value, value.copy()) for value in held.values() if isinstance(value, dict)]


def _heads(model: nn.Module) -> Iterator[Tensor]:
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    listed = {id(part) for parts in lists for part in parts.modules()}
    for part in model.modules():
        if id(part) not in listed and hasattr(part, "reset_parameters") and not isinstance(part, nn.Embedding):
            yield from part.parameters(recurse=False)
