"""LocalTraining by DP-SGD: gradients of single samples are clipped, and their sum gets noise; see ``privacy.samples``.

A gradient of each sample costs one pass over the batch: a trained linear module computes y_i = x_i W_iᵀ with a copy of
its weight for each sample, W_i = W, so that the gradient by W_i is that of sample i. The copies share memory; the
gradients do not. It works under every activation policy. Steps run in float32: padding and the order of sums follow
from who else is in a batch, and change a sample's gradient by rounding alone.

Opacus (1.6.0, with torch 2.13 and PEFT 0.21) computes the same, but cannot be used: its hooks lose the gradients of
blocks that are recomputed (``grad_sample`` is None), they keep activations aside that a block under ``compress`` should
not hold, so that memory exceeds its plan, and its noise and batches come from torch's generator, or from the package
``torchcsprng``, which does not exist for this torch.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fedhello.client.loss import DataLoss, add_proximal_gradient, data_loss
from fedhello.client.mode import lowest_trained, set_training, surroundings
from fedhello.client.outcome import are_finite, check_trained
from fedhello.client.settings import TrainingSettings, learning_rate
from fedhello.client.training import Assignment, optimizer_of, policies_of
from fedhello.data.batches import Batch, Samples
from fedhello.errors import ModelError, UpdateError
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.privacy.noise import factor, gaussian
from fedhello.randomness import secret_generator
from fedhello.types import NoisySteps

logger = logging.getLogger("fedhello")

EXTRA_COPIES = 6
"""Of all trained values in float32, that a step holds besides samples' gradients: their sum, and noise, in float64."""


def gradient_copies(batch_size: int) -> int:
    """Return an upper bound on the gradients that a step holds in place of one, in float32.

    Args:
        batch_size: The most samples that are computed at once.
    """
    return batch_size + EXTRA_COPIES


def private_training(
    model: LoraModel, work: Assignment, settings: TrainingSettings, how: NoisySteps, clip: float
) -> dict[str, Tensor]:
    """Train the named tensors on one client's data by steps that protect single samples.

    A batch is computed in parts of at most ``batch_size`` samples. An error while it is computed follows from the data,
    so the sum counts as zero then, and the noise is added all the same; the reason stays in this client's log.

    Args:
        model: Holds the start values; afterwards the trained values.
        work: The tensors and the data.
        settings: The settings of local training; the number of steps and the batches are those of ``how``.
        how: How the client trains.
        clip: C.

    Returns:
        The trained tensors' new values on the CPU. Nothing is measured, since that would follow from the data.

    Raises:
        UpdateError: If values are not finite.
    """
    before = model.read(work.names)
    parameters = dict(zip(sorted(work.names), model.set_trainable(work.names), strict=True))
    optimizer = optimizer_of(model, parameters.items(), settings, learning_rate(settings, work.round))
    start = [(parameters[name], before[name]) for name in parameters]
    loss = _loss(model, work, settings)
    n, q = len(work.data.labels), how.rate
    # Where masks were drawn from the run's seed, those of other samples would tell whether a sample is in the batch.
    with surroundings(model, work.absent, int(secret_generator().integers(2**31))):
        set_training(model, lowest_trained(model, work.names))
        for step in range(how.steps):
            drawn = np.flatnonzero(secret_generator().random(n) < q)
            with policies_of(model, work):
                total = _sum_or_nothing(model, work, parameters, drawn, settings, loss, clip)
            for name, parameter in parameters.items():
                noised = total[name] + gaussian(tuple(parameter.shape), how.noise * clip)
                parameter.grad = (noised / (q * n)).to(parameter)
            if settings.proximal:
                add_proximal_gradient(start, settings.proximal)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            work.told(step + 1, how.steps)
    after = model.read(work.names)
    if not are_finite(after):
        raise UpdateError(
            f"expected finite training values; client {work.client} in round {work.round} got NaN or infinity from its "
            "noised steps. Lower train.lr.",
            "not finite",
        )
    check_trained(model, work.client, work.round, before, after)
    return after


def _loss(model: LoraModel, work: Assignment, settings: TrainingSettings) -> DataLoss:
    labels, device = work.data.labels, model.device
    return data_loss(settings.loss, work.classes, labels, lambda: model.num_labels, settings.adjustment, device)


def _sum_or_nothing(
    model: LoraModel,
    work: Assignment,
    parameters: Mapping[str, nn.Parameter],
    drawn: np.ndarray,
    settings: TrainingSettings,
    loss: DataLoss,
    clip: float,
) -> dict[str, Tensor]:
    try:
        return clipped_sum(model, parameters, work.data, drawn, settings.batch_size, loss, clip)
    except Exception as error:  # whether it fails follows from the data, so nobody else may see it
        logger.warning("client %d contributes no change to a step of round %d: %s", work.client, work.round, error)
        return _zeros(parameters)


def clipped_sum(
    model: LoraModel,
    parameters: Mapping[str, nn.Parameter],
    data: Samples,
    positions: np.ndarray,
    batch_size: int,
    loss: DataLoss,
    clip: float,
) -> dict[str, Tensor]:
    """Return Σ g_i min(1, C/‖g_i‖) over samples, float64 on the CPU, by name; zeros without a sample.

    Args:
        model: The model.
        parameters: What trains, by name.
        data: The client's samples.
        positions: Which of them.
        batch_size: So many are computed at once.
        loss: The loss on each sample.
        clip: C.
    """
    total = _zeros(parameters)
    for found in _in_parts(model, parameters, data, positions, batch_size, loss):
        for i, length in enumerate(lengths_of(found)):
            if f := factor(length, clip):
                for name, value in found.items():
                    total[name] += f * value[i].double().cpu()
    return total


def _zeros(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in parameters.items()}


def lengths_of(gradients: Mapping[str, Tensor]) -> list[float]:
    """Return ‖g_i‖ of each sample, over all tensors together, in float64.

    Args:
        gradients: Name → g, shape (n, …).
    """
    squares = [
        torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=torch.float64).square() for value in gradients.values()
    ]
    return [math.sqrt(square) for square in torch.stack(squares).sum(dim=0).tolist()]


def median_length(
    model: LoraModel, names: Sequence[str], data: Samples, settings: TrainingSettings, most: int = 100
) -> float:
    """Return the median of ‖g_i‖ over at most ``most`` samples, spread evenly, without dropout.

    Args:
        model: The model.
        names: What trains.
        data: The samples, of the server.
        settings: The settings of local training.
        most: How many.
    """
    parameters = dict(zip(sorted(names), model.set_trainable(names), strict=True))
    positions = np.unique(np.linspace(0, len(data.labels) - 1, min(most, len(data.labels))).astype(int))
    loss = data_loss(settings.loss, (), data.labels, lambda: model.num_labels, settings.adjustment, model.device)
    model.module.eval()
    parts = _in_parts(model, parameters, data, positions, settings.batch_size, loss)
    return float(np.median([length for part in parts for length in lengths_of(part)]))


def _in_parts(
    model: LoraModel,
    parameters: Mapping[str, nn.Parameter],
    data: Samples,
    positions: np.ndarray,
    batch_size: int,
    loss: DataLoss,
) -> Iterator[dict[str, Tensor]]:
    """Yield gradients of samples of similar length together, at most ``batch_size`` at once."""
    ordered = positions[np.argsort(data.lengths()[positions], kind="stable")]
    for part in np.array_split(ordered, -(-len(ordered) // batch_size)) if len(ordered) else []:
        yield sample_gradients(model, parameters, data.batch(part).to(model.device), loss)


def sample_gradients(
    model: LoraModel, parameters: Mapping[str, nn.Parameter], batch: Batch, loss: DataLoss
) -> dict[str, Tensor]:
    """Return the gradient of the loss on each sample of a batch by each parameter, shape (n, …), by name.

    Args:
        model: The model.
        parameters: Weights of LoRA's linear modules, by name.
        batch: On the model's device.
        loss: Called for each sample by itself, so that no loss can mix them.

    Raises:
        ModelError: If the model does not keep samples apart.
    """
    n = len(batch.labels)
    copies = {
        name: parameter.detach().expand(n, *parameter.shape).requires_grad_() for name, parameter in parameters.items()
    }
    with _own_weights(model, {id(parameters[name]): copy for name, copy in copies.items()}):
        found = predictions(model, batch)
        each = [loss(found.z[i : i + 1], found.y[i : i + 1]) for i in range(n)]
        gradients = torch.autograd.grad(torch.stack(each).sum(), list(copies.values()))
    return dict(zip(copies, gradients, strict=True))


@contextmanager
def _own_weights(model: LoraModel, copies: Mapping[int, Tensor]) -> Iterator[None]:
    """Let linear modules compute each sample with its own copy of the weight, of shape (n, out, in)."""
    with ExitStack() as stack:
        for _, module in model.factors():
            if id(module.weight) in copies:
                if not isinstance(module, nn.Linear):
                    raise ModelError(
                        "expected LoRA on linear layers alone where single samples are protected in training; found "
                        f"a {type(module).__name__}. Change model.lora.targets."
                    )
                hook: Callable[..., Tensor] = _computed_with(copies[id(module.weight)])
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _computed_with(weights: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> Tensor:
        x, n = inputs[0], len(weights)
        if x.shape[0] != n:
            raise ModelError(
                "expected a model that keeps samples apart in the first dimension, since single samples are protected "
                f"in training; found {x.shape[0]} rows for {n} samples in a layer with LoRA. Change model.lora.targets."
            )
        rows = x.reshape(n, -1, x.shape[-1])
        return torch.matmul(rows, weights.transpose(1, 2)).reshape(*x.shape[:-1], weights.shape[1])

    return hook


def check_samples_apart(model: LoraModel, names: Sequence[str], batch: Batch) -> None:
    """Check that gradients of single samples can be computed.

    Args:
        model: The model.
        names: What trains.
        batch: A few samples.

    Raises:
        ModelError: If they cannot.
    """
    mixing = [path for path, part in model.module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if mixing:
        raise ModelError(
            "expected a model that keeps samples apart, since single samples are protected in training; found batch "
            f"normalisation in {mixing[0]}. Use GroupNorm or LayerNorm."
        )
    parameters = dict(zip(sorted(names), model.set_trainable(names), strict=True))
    model.module.eval()
    sample_gradients(model, parameters, batch.to(model.device), nn.functional.cross_entropy)
