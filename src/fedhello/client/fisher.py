"""Fisher scores of the blocks on the server's proxy set (Fed-HeLLo).

    Γ_l = (1/|D|) Σ_{d ∈ D} ‖∇_{θ_l} log p(y_d | x_d)‖²,        θ_l = the LoRA factors of block l

with the log-likelihood over all classes, the model in evaluation mode, and every sample of D exactly once. The
square is taken per sample: the gradient of a batch's mean would let samples cancel each other.
"""

import numpy as np
import torch
from torch.nn.functional import log_softmax

from fedhello.data.batches import Examples
from fedhello.model.adapter import LoraModel


def block_scores(model: LoraModel, proxy: Examples) -> tuple[float, ...]:
    """Return Γ under the values that the model holds now.

    Args:
        model: The model; its values stay as they are.
        proxy: D, at least one sample.

    Returns:
        L scores ≥ 0.
    """
    names = sorted(name for name, block in model.block_of.items() if block is not None)
    parameters = model.select(names)
    totals = np.zeros(model.blocks.count)
    model.module.eval()
    for position in range(len(proxy)):
        batch = proxy.batch(np.array([position])).to(model.device)
        log_likelihood = log_softmax(model.module(**batch.inputs).logits.float(), dim=1)[0, batch.labels[0]]
        gradients = torch.autograd.grad(log_likelihood, parameters)
        for name, gradient in zip(names, gradients, strict=True):
            totals[model.block_of[name]] += float(gradient.double().square().sum())
    return tuple((totals / len(proxy)).tolist())
