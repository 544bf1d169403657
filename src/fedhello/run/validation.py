"""The server's validation data as a measure of adapters."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedhello.aggregation.server import STEPS
from fedhello.data.batches import Samples
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import evaluate
from fedhello.types import Adapter


@dataclass
class ValidationLoss:
    """Mean −log p of the validation data under an adapter; one that was measured a moment ago is not run again.

    Attributes:
        model: Holds the adapter afterwards, or another.
        validation: The data.
        bfloat16: Whether the forward pass runs in bf16 autocast, as that of training does.
        known: The last ones: tensors in the order of their names, and the loss.
    """

    model: LoraModel
    validation: Samples
    bfloat16: bool = False
    known: list[tuple[list[Tensor], float]] = field(default_factory=list)

    def __call__(self, adapter: Adapter) -> float:
        """Return the loss."""
        tensors = [adapter.tensors[name] for name in sorted(adapter.tensors)]
        for before, loss in self.known:
            if all(a is b for a, b in zip(before, tensors, strict=True)):
                return loss
        self.model.write(adapter.tensors)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = evaluate(self.model, self.validation).loss
        self.known = [*self.known, (tensors, loss)][-len(STEPS) :]
        return loss
