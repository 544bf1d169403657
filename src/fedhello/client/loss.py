"""The training loss of classification, plain or restricted to the client's own classes."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Literal["cross_entropy", "restricted"]


def absent_classes(loss: Loss, own: Sequence[int], classes: int) -> Tensor | None:
    """Return the mask of the classes that the loss must not see: bool, shape (C,); None for none.

    Args:
        loss: ``restricted`` hides the classes that the client does not hold.
        own: The labels in the client's data.
        classes: C.
    """
    if loss == "cross_entropy" or len(own) == classes:
        return None
    mask = torch.ones(classes, dtype=torch.bool)
    mask[list(own)] = False
    return mask


def classification_loss(logits: Tensor, labels: Tensor, absent: Tensor | None) -> Tensor:
    """Return the mean of −log softmax(z)_y over the batch, the softmax running over the classes present.

    A client that holds 2 of 5 classes would otherwise learn, first of all, that the other three never occur, and
    teach it to everyone. Restricting the softmax to the client's own classes leaves the others' logits without a
    gradient. After Li & Zhan 2021, "FedRS: Federated learning with restricted softmax", who scale the absent classes'
    logits down; here those classes are left out altogether.

    Args:
        logits: z, shape (b, C).
        labels: y, shape (b,).
        absent: From ``absent_classes``, on the logits' device.
    """
    z = logits.float()
    if absent is not None:
        z = z.masked_fill(absent, float("-inf"))
    return cross_entropy(z, labels)
