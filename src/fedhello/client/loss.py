"""The training losses on a client's data, some of them for clients with few classes, and the terms that methods add."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus

from fedhello.errors import ConfigError, UpdateError
from fedhello.factors import tail_start
from fedhello.registry import Registry, a_function

LOSSES = Registry(
    "loss",
    "train.loss",
    "fedhello.losses",
    a_function,
    own=("auto", "cross_entropy", "restricted", "adjusted", "one_vs_all"),
)
"""The losses: built-in names, and user-defined losses."""


def register_loss(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a training loss, to be used with ``train.loss: name``.

    A function of a module needs no registration: ``train.loss: my_module:focal``. An entry point of the group
    ``fedhello.losses`` works, too. The loss is for classification; language models use the loss of their tokens. It
    replaces only the loss on a client's data; solved heads, Fisher scores, validation and the prediction of bytes use
    cross-entropy.

    Args:
        name: A name that no built-in loss has; a registered loss of the same name is replaced.
        function: From logits (float32, shape (n, C)) and classes (int64, shape (n,)) of a batch to a tensor: a number,
            or one per sample, shape (n,), of which the mean is minimised.

    Returns:
        The function.

    Raises:
        ConfigError: If a built-in loss has the name, or ``function`` cannot be called.

    Example:
        >>> def margins(z, y):
        ...     return torch.nn.functional.multi_margin_loss(z, y, reduction="none")
        >>> _ = register_loss("margins", margins)
    """
    return LOSSES.register(name, function)


DataLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits z, float32, shape (n, C), and classes y, shape (n,) → a number."""

SMOOTHING = 1.0
"""ε: number of samples added to each class's count, so that no class has a prior of 0."""


def data_loss(
    kind: str,
    own: Sequence[int],
    labels: np.ndarray,
    num_labels: Callable[[], int],
    adjustment: float,
    device: torch.device,
) -> DataLoss:
    """Return the loss that a client minimises on its data.

    Args:
        kind: The loss's name; see ``LOSSES``.
        own: The labels in the client's data.
        labels: The label of each of its samples, integers, shape (n,).
        num_labels: Returns C; not called for the plain loss, since a language model has no classes.
        adjustment: τ of the adjusted loss.
        device: The logits' device.
    """
    match kind:
        case "cross_entropy":
            return partial(prediction_loss, absent=None)
        case "restricted":
            absent = absent_classes(own, num_labels())
            return partial(prediction_loss, absent=None if absent is None else absent.to(device))
        case "adjusted":
            return partial(adjusted_loss, shift=adjustment * log_prior(labels, num_labels()).to(device))
        case "one_vs_all":
            return one_vs_all_loss
        case _:
            return partial(registered_loss, kind)


def registered_loss(name: str, z: Tensor, y: Tensor) -> Tensor:
    """Return the mean over a batch of a user-defined loss, after checking its result.

    Args:
        name: The loss's name.
        z: Logits, float32, shape (n, C).
        y: Classes, shape (n,).

    Raises:
        ConfigError: If it raises, or its result cannot be minimised.
        UpdateError: If it is not finite.
    """
    found = LOSSES.call(name, z, y)
    if not isinstance(found, Tensor) or found.shape not in ((), y.shape):
        said = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ConfigError(
            f"expected the loss {name} to return a tensor that is a number, or one per sample, shape ({len(y)},); "
            f"found {said}"
        )
    if not found.requires_grad:
        raise ConfigError(
            f"expected the loss {name} to depend on the logits by operations that torch can differentiate; found a "
            "result without a gradient. Compute it from the logits with torch."
        )
    if not bool(found.isfinite().all()):
        raise UpdateError(f"expected finite values of the loss {name}; found NaN or infinity", "not finite")
    return found.mean()


def absent_classes(own: Sequence[int], num_labels: int) -> Tensor | None:
    """Return the mask of the classes that the restricted loss leaves out: bool, shape (C,); None for none.

    Args:
        own: The labels in the client's data.
        num_labels: C.
    """
    if len(own) == num_labels:
        return None
    mask = torch.ones(num_labels, dtype=torch.bool)
    mask[list(own)] = False
    return mask


def prediction_loss(z: Tensor, y: Tensor, absent: Tensor | None) -> Tensor:
    """Return the mean of −log softmax(z)_y over predictions, with the softmax over the classes present.

    With the full softmax, a client that holds 2 of 5 classes mainly learns that the other three never occur, and the
    aggregation spreads that to all clients. With the softmax restricted to the client's own classes, the other classes'
    logits have no gradient. After Li & Zhan 2021, "FedRS: Federated learning with restricted softmax", who scale the
    absent classes' logits down; here they are left out.

    Args:
        z: Logits, float32, shape (n, C).
        y: Classes, or tokens, shape (n,).
        absent: The mask of ``absent_classes``, on the logits' device.
    """
    if absent is not None:
        z = z.masked_fill(absent, float("-inf"))
    return cross_entropy(z, y)


def log_prior(labels: np.ndarray, num_labels: int) -> Tensor:
    """Return log π_c = log (n_c + ε)/(n + εC) of one client's data; float32, shape (C,).

    Args:
        labels: The label of each of its samples, integers, shape (n,).
        num_labels: C.
    """
    counts = np.bincount(labels, minlength=num_labels) + SMOOTHING
    return torch.from_numpy(np.log(counts / counts.sum())).float()


def adjusted_loss(z: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """Return the mean of −log softmax(z + τ log π)_y over predictions: logit adjustment.

    The frequencies of the classes in a client's data are added to the logits inside the softmax, so the logits z need
    not learn them; at the optimum they are those of classes of equal size. A class that the client lacks has a small
    prior, from ε, and its logits a small gradient, so a client with one class also learns. Predictions use z alone.

    Menon et al. 2021, "Long-tail learning via logit adjustment" (arXiv 2007.07314), by the counts of each client as in
    Zhang et al. 2022, "Federated learning with label distribution skew via logits calibration" (FedLC, arXiv
    2209.00189), who shift by −τ n_c^(−1/4). The smoothing is ours.

    Args:
        z: Logits, float32, shape (n, C).
        y: Classes, shape (n,).
        shift: τ log π, shape (C,); see ``log_prior``.
    """
    return cross_entropy(z + shift, y)


def one_vs_all_loss(z: Tensor, y: Tensor) -> Tensor:
    """Return the mean over samples of −log σ(z_y) − 1/(C−1) Σ_{c≠y} log σ(−z_c): one binary problem per class.

    Logits do not compete, so a client does not lower the logit of a class that it lacks in order to raise another. Its
    samples are negatives of that class, but their gradient, σ(z_c)/(C−1), vanishes where the logit is low already, as
    after training on other clients. Hence the loss is not restricted to the client's own classes, and a client with one
    class also learns. A sample's negatives together weigh as much as its positive.

    After Park et al. 2025, "OvA-LP" (arXiv 2511.05028), of which this is the one-vs-all head alone: their encoder is
    frozen and their training has two stages. The balance is ours.

    Args:
        z: Logits, float32, shape (n, C), C ≥ 2.
        y: Classes, shape (n,).
    """
    C = z.shape[1]
    positive = one_hot(y, C).to(z.dtype)
    # −log σ(z) = softplus(−z) and −log σ(−z) = softplus(z)
    each = positive * softplus(-z) + (1 - positive) * softplus(z) / (C - 1)
    return each.sum(dim=1).mean()


def add_proximal_gradient(start: Iterable[tuple[nn.Parameter, Tensor]], weight: float) -> None:
    """Add μ(θ − θ^t), the gradient of FedProx's μ/2 ‖θ − θ^t‖², to the gradients of the trained parameters.

    Li et al. 2020, "Federated optimization in heterogeneous networks" (arXiv 1812.06127). Adding to the gradient
    instead of the loss saves no tensors for backward. The optimiser gets the sum, so AdamW scales it like the rest.

    Args:
        start: The trained parameters, each with its θ^t.
        weight: μ.
    """
    for parameter, before in start:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - before.to(parameter.device), alpha=weight)


def tail_products(factors: Iterable[tuple[Tensor, Tensor]], shrink: float) -> Tensor:
    """Return Σ ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F over the pairs (A, B) of a model; a number.

    The norm has no gradient at a matrix of zeros, where B starts; there the gradient is set to 0.
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
