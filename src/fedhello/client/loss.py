"""The training loss, plain or restricted to the client's own classes, and what methods add to it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.factors import Shrink, tail_start

Loss = Literal["cross_entropy", "restricted"]


def absent_classes(own: Sequence[int], classes: int) -> Tensor | None:
    """Return the mask of the classes that the restricted loss must not see: bool, shape (C,); None for none.

    Args:
        own: The labels in the client's data.
        classes: C.
    """
    if len(own) == classes:
        return None
    mask = torch.ones(classes, dtype=torch.bool)
    mask[list(own)] = False
    return mask


def prediction_loss(z: Tensor, y: Tensor, absent: Tensor | None) -> Tensor:
    """Return the mean of −log softmax(z)_y over predictions, the softmax running over the classes present.

    A client that holds 2 of 5 classes would otherwise learn, first of all, that the other three never occur, and
    teach it to everyone. Restricting the softmax to the client's own classes leaves the others' logits without a
    gradient. After Li & Zhan 2021, "FedRS: Federated learning with restricted softmax", who scale the absent classes'
    logits down; here those classes are left out altogether.

    Args:
        z: Logits, float32, shape (n, C).
        y: Classes, or tokens, shape (n,).
        absent: From ``absent_classes``, on the logits' device.
    """
    if absent is not None:
        z = z.masked_fill(absent, float("-inf"))
    return cross_entropy(z, y)


def plain() -> Mapping[str, Any]:
    """For methods that leave local training as it is."""
    return {}


def tail_regulariser(*, penalty: Annotated[float, Field(ge=0)] = 0.01, shrink: Shrink = 0.99) -> Mapping[str, Any]:
    """HetLoRA's addition to the loss, λ Σ ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F with λ = ``penalty`` and γ = ``shrink``."""
    return {"tail_penalty": penalty, "tail_from": shrink}


def tail_products(factors: Iterable[tuple[Tensor, Tensor]], shrink: float) -> Tensor:
    """Return Σ ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F over the pairs (A, B) of a model; a number.

    The norm of a matrix of zeros has no gradient; B starts at zero, so the gradient there is taken as 0.
    """
    total = torch.zeros(())
    for A, B in factors:
        kept = tail_start(A.shape[0], shrink)
        if kept < A.shape[0]:
            total = total + _norm(B[:, kept:]) * _norm(A[kept:])
    return total


def _norm(x: Tensor) -> Tensor:
    square = x.square().sum()
    return torch.where(square > 0, square.clamp_min(torch.finfo(x.dtype).tiny).sqrt(), square)
