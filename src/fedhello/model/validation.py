"""Losses of adapters on the server's validation data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.data.batches import Samples
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import logits
from fedhello.model.number_type import in_bfloat16
from fedhello.strategy import STEPS
from fedhello.types import Adapter


def same_objects(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two sequences hold the same tensor objects in the same order."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


@dataclass
class ValidationLosses:
    """−log p of each validation sample under an adapter; the last few adapters' losses are cached.

    Attributes:
        model: The model; a call leaves the given adapter in it.
        validation: The server's validation data.
        bfloat16: Whether the forward pass runs in bf16 autocast, as in training.
        known: Cache of at most ``len(STEPS)`` adapters: tensors in the order of their names, and the losses.
    """

    model: LoraModel
    validation: Samples
    bfloat16: bool = False
    known: list[tuple[list[Tensor], Tensor]] = field(default_factory=list)

    def __call__(self, adapter: Adapter) -> Tensor:
        """Return the losses, float32, shape (n,)."""
        tensors = [adapter.tensors[name] for name in sorted(adapter.tensors)]
        for before, found in self.known:
            if same_objects(before, tensors):
                return found
        self.model.write(adapter.tensors)
        with in_bfloat16(self.model, self.bfloat16):
            z = logits(self.model, self.validation)
        found = cross_entropy(z, torch.from_numpy(self.validation.labels), reduction="none")
        self.known = [*self.known, (tensors, found)][-len(STEPS) :]
        return found
