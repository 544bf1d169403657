"""Run a model on a batch and return predictions with their targets, for every task.

A classifier predicts one class per sample from its logits, shape (b, C). A causal language model predicts each token
that has a label from the position before it. Both give predictions z, shape (n, C), with targets y, shape (n,), from
which loss, log-likelihood and accuracy are computed in the same way.
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
    """A model's predictions in a batch of b samples.

    Attributes:
        z: Logits, float32, shape (n, C): n = b in classification, n = number of labelled tokens in language modelling.
        y: Targets, int64, shape (n,).
        sample: Index of the sample of each prediction, 0 … b−1, int64, shape (n,).
    """

    z: Tensor
    y: Tensor
    sample: Tensor


def predictions(model: LoraModel, batch: Batch) -> Predictions:
    """Run the model on a batch that is on its device.

    Raises:
        DataError: If no token of a batch of texts has a label.
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
    """Let the model compute logits at some positions only, since logits over a vocabulary are large.

    The model's own scaling or capping of logits still applies.
    """

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][sample, position], *inputs[1:])

    base = model.base
    handle = base.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
