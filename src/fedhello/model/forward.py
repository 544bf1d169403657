"""Run a model on a batch: what it predicts, and what it should have predicted, whatever the task.

A classifier predicts one class per sample from its logits, shape (b, C). A causal language model predicts each token
that has a label from the position before it. Both give predictions z, shape (n, C), with targets y, shape (n,), and
the loss, the log-likelihood and the accuracy are the same functions of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedhello.data.batches import IGNORED, Batch
from fedhello.errors import DataError
from fedhello.model.adapter import LoraModel


@dataclass(frozen=True)
class Predictions:
    """What a model predicts in a batch of b samples.

    Attributes:
        z: Logits, float32, shape (n, C): n = b of classification, n = the labelled tokens of language modelling.
        y: What is right, int64, shape (n,).
        sample: Which of the b samples each prediction is part of, int64, shape (n,).
    """

    z: Tensor
    y: Tensor
    sample: Tensor


def predictions(model: LoraModel, batch: Batch) -> Predictions:
    """Run the model on a batch that is on its device.

    Raises:
        DataError: If no token of a batch of texts has a label, so that there is nothing to learn from it.
    """
    if batch.labels.dim() == 1:
        z = model.module(**batch.inputs).logits
        return Predictions(z.float(), batch.labels, torch.arange(len(z), device=z.device))
    sample, position = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    if not len(sample):
        raise DataError("expected a batch to have labels; none of its tokens has one. Look for empty responses.")
    with _logits_only_at(model, sample, position):
        z = model.module(**batch.inputs).logits
    return Predictions(z.float(), batch.labels[sample, position + 1], sample)


@contextmanager
def _logits_only_at(model: LoraModel, sample: Tensor, position: Tensor) -> Iterator[None]:
    """Let the model make logits at some positions only: a vocabulary is wide, and prompts need none.

    Whatever a model does to its logits afterwards, scale or cap them, it does to these.
    """

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][sample, position], *inputs[1:])

    base = model.base
    handle = base.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
