"""Estimate a gradient without backward: forward-mode differentiation along random directions.

With v ~ N(0, I), the slope ∇f·v of a function along v times v itself is ∇f on average:

    g = (1/m) Σ_i (∇f·v_i) v_i,        E[g] = ∇f,        E[|g − ∇f|²] = (d + 1)/m · |∇f|²    for d values

(Baydin et al. 2022, "Gradients without backpropagation", arXiv 2202.08587; for LoRA in a federation: Panchal et al.
2024, Spry, arXiv 2405.17551, whose clients, like ours, train a few blocks each, which keeps d small). One pass forward
carries the slope of every intermediate result beside its value, and nothing is saved for backward, so a step needs
little beyond what its widest operation needs for a moment: twice that of a forward pass. A batch passes in ``PARTS``
parts, which are joined before the loss, so that this is a share of the batch only. Fused attention has no forward mode,
so attention is computed by its plain formula.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import Predictions

PARTS = 4
"""Parts in which a batch passes the model: with more of them, the head's own step needs more memory than they do."""


def parts_of(positions: np.ndarray) -> list[np.ndarray]:
    """Return the parts of a batch: at most ``PARTS``, each of as many samples but for the last.

    Args:
        positions: The positions of its samples, shape (b,).
    """
    size = part_size(len(positions))
    return [positions[i : i + size] for i in range(0, len(positions), size)]


def part_size(samples: int) -> int:
    """Return the samples of the largest part of a batch.

    Args:
        samples: Of the batch.
    """
    return -(-samples // PARTS)


def estimate_gradients(
    model: LoraModel, parameters: Sequence[nn.Parameter], function: Callable[[], Tensor], tangents: int, seed: int
) -> None:
    """Set the gradients of some parameters to an unbiased estimate; nothing is saved for backward.

    Args:
        model: The model that holds the parameters.
        parameters: The parameters, of one number type each.
        function: Runs the model and returns f, a scalar.
        tangents: m ≥ 1, the number of directions.
        seed: What the directions are drawn from.

    Raises:
        ModelError: If an operation of the model has no forward mode.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(tangents):
        # Drawn on a CPU, so that all devices see the same ones.
        v = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
        slope = _slope(model, dict(zip(map(id, parameters), zip(parameters, v, strict=True), strict=True)), function)
        for p, direction in zip(parameters, v, strict=True):
            step = direction.mul_(slope / tangents)
            p.grad = step if p.grad is None else p.grad.add_(step)


def joined_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of a batch from those of its parts.

    Args:
        parts: In order; not empty.
    """
    before = np.cumsum([0, *(int(part.sample.max()) + 1 for part in parts)])
    return Predictions(
        z=torch.cat([part.z for part in parts]),
        y=torch.cat([part.y for part in parts]),
        sample=torch.cat([part.sample + int(n) for part, n in zip(parts, before[:-1], strict=True)]),
    )


def primal(x: Tensor) -> Tensor:
    """Return a value without its slope.

    Args:
        x: The value, with its slope or without.
    """
    value: Tensor = forward_ad.unpack_dual(x).primal
    return value.detach()


def _slope(
    model: LoraModel, directions: Mapping[int, tuple[nn.Parameter, Tensor]], function: Callable[[], Tensor]
) -> Tensor:
    """Return ∇f·v; ``directions``: id of a parameter → it and its part of v."""
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            with warnings.catch_warnings():  # of what torch imports for it
                warnings.filterwarnings("ignore", message=r".torch\.jit\.script", category=DeprecationWarning)
                duals = {key: forward_ad.make_dual(p.detach(), v) for key, (p, v) in directions.items()}
            with _in_place_of(model, duals):
                found = forward_ad.unpack_dual(function())
    except (NotImplementedError, RuntimeError) as error:
        if not re.search(r"forward (mode )?AD", str(error)):
            raise
        raise ModelError(
            f"expected a model whose operations have a forward mode for train.activations=forward; "
            f"{model.source.base_name} does not: {' '.join(str(error).split())[:200]} Set train.activations=recompute."
        ) from error
    return torch.zeros_like(found.primal) if found.tangent is None else found.tangent.clone()


@contextmanager
def _in_place_of(model: LoraModel, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Let the model compute with other tensors in place of its parameters, by their ids, inside the context."""
    modules = list(model.module.modules())
    places = [(m, key, p) for m in modules for key, p in m._parameters.items() if p is not None and id(p) in tensors]
    try:
        for module, key, parameter in places:
            module._parameters[key] = tensors[id(parameter)]  # type: ignore[assignment]  # a dual tensor is no parameter
        yield
    finally:
        for module, key, parameter in places:
            module._parameters[key] = parameter
