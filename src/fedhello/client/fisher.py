"""Fisher scores of the blocks (Fed-HeLLo), and the sums that they are computed from.

    Γ_l = (1/|D|) Σ_{d ∈ D} ‖∇_{θ_l} log p(y_d | x_d)‖²,        θ_l = the LoRA factors of block l

with the log-likelihood over all classes (for a language model, of the whole response: the sum over its tokens), the
model in evaluation mode, and every sample of D exactly once. The square is taken per sample, since in the gradient of a
batch's mean the samples would cancel each other.

No loop over samples is needed. A factor W is linear, y = x Wᵀ, so sample d's gradient is G_d = Σ_t g_{d,t} x_{d,t}ᵀ
over its positions t, where g = ∂(Σ_d log p_d)/∂y; samples do not mix in evaluation mode. One forward and one backward
pass per batch give x and g of every factor, and with rank r a G_d has only r·d_in or d_out·r entries.

So G_d is formed. ‖G_d‖² = Σ_{t,s} (g_t·g_s)(x_t·x_s) would hold no gradient, but its terms cancel, and there is little
to save: G_d takes r/d of the products of the frozen layer, and all norms together a few percent of a pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhello.client.finite import start_cause
from fedhello.data.batches import Batch, Samples, evaluation_batches
from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions


@dataclass(frozen=True)
class _Pass:
    """One pass through a factor: block, input x of shape (b, …, d_in), output y of shape (b, …, d_out)."""

    block: int
    x: Tensor
    y: Tensor


def block_scores(model: LoraModel, proxy: Samples, batch_size: int = 32) -> tuple[float, ...]:
    """Return Γ under the model's current values.

    Args:
        model: The model; its values stay as they are.
        proxy: D, at least one sample.
        batch_size: Samples per pass; it bounds the memory and changes the result by rounding only.

    Returns:
        L scores ≥ 0.

    Raises:
        ModelError: If a factor is shared by several layers, or a gradient is not finite.
    """
    return tuple((squared_gradients(model, proxy, batch_size) / len(proxy)).tolist())


def squared_gradients(model: LoraModel, data: Samples, batch_size: int = 32) -> np.ndarray:
    """Return Σ_d ‖∇_{θ_l} log p(y_d | x_d)‖² over some samples; float64, shape (L,). See ``block_scores``."""
    return over_batches(model, (data.batch(at) for at in evaluation_batches(data.lengths(), batch_size)))


def over_batches(model: LoraModel, batches: Iterable[Batch]) -> np.ndarray:
    """Return the sums of ``squared_gradients`` over the samples of some batches.

    Raises:
        ModelError: As ``block_scores`` does.
    """
    # Nothing trains: the factors only have to be part of the graph, so that their outputs have gradients.
    model.set_trainable(name for name, block in model.block_of.items() if block is not None)
    totals = np.zeros(model.blocks.count)
    passes: list[_Pass] = []

    def note(block: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            passes.append(_Pass(block, inputs[0].detach(), output))

        return hook

    handles = [module.register_forward_hook(note(block)) for block, module in model.factors()]
    model.module.eval()
    try:
        for batch in batches:
            passes.clear()
            found = predictions(model, batch.to(model.device))
            if len(passes) != len(handles):
                raise ModelError(
                    f"expected each LoRA factor to be used once per forward pass; {len(handles)} factors were used "
                    f"{len(passes)} times. Models that share a block among layers have no score per block."
                )
            log_likelihood = -cross_entropy(found.z, found.y, reduction="sum")
            gradients = torch.autograd.grad(log_likelihood, [one.y for one in passes])
            for one, g in zip(passes, gradients, strict=True):
                totals[one.block] += float(squared_norms(one.x, g).sum())
    finally:
        for handle in handles:
            handle.remove()
    if not np.isfinite(totals).all():
        raise ModelError(
            f"expected finite gradients for the Fisher scores; found NaN or infinity: {start_cause(model)}."
        )
    return totals


def squared_norms(x: Tensor, g: Tensor) -> Tensor:
    """Return ‖Σ_t g_t x_tᵀ‖² of each sample; float64, shape (b,).

    Args:
        x: Inputs, shape (b, …, d_in).
        g: Gradients of the outputs, shape (b, …, d_out), the same positions.
    """
    # ‖G‖ = ‖Gᵀ‖, and a product with r rows is up to four times as fast as one with r columns.
    few, many = (v.reshape(len(v), -1, v.shape[-1]) for v in sorted((x, g), key=lambda v: v.shape[-1]))
    G = few.transpose(1, 2) @ many
    return G.double().square().sum(dim=(1, 2))
