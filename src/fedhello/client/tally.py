"""What is counted over the steps of a client's training."""

from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from fedhello.data.batches import Batch


@dataclass
class Tally:
    """What is counted over the steps of a training.

    Attributes:
        loss: Sum of the loss over all samples seen, float64.
        samples: Number of samples seen.
        steps: Number of steps.
        tokens: Number of tokens, padding included.
        first: Loss and objective of the first step.
        widest: Samples and tokens of its batch, the widest.
        labelled: Predicted tokens of that batch; None without any.
    """

    loss: Tensor
    samples: int = 0
    steps: int = 0
    tokens: int = 0
    first: tuple[Tensor, Tensor] = field(init=False)
    widest: tuple[int, int] = field(init=False)
    labelled: int | None = None

    def add(self, batch: Batch, samples: int, loss: Tensor, objective: Tensor) -> None:
        """Count a step."""
        if self.steps == 0:
            self.first, self.widest, self.labelled = (loss, objective), batch.shape, batch.labelled
        self.loss += loss * samples
        self.samples += samples
        self.tokens += prod(batch.shape)
        self.steps += 1

    def metrics(self, epochs: int, seconds: float) -> dict[str, float]:
        """Return the counts by the names of metrics."""
        found = {
            "loss": float(self.loss) / self.samples,
            "samples": self.samples,
            "steps": self.steps,
            "batches": self.steps // epochs,
            "tokens": self.tokens,
            "widest_samples": self.widest[0],
            "widest_tokens": self.widest[1],
            "seconds": seconds,
        }
        return found if self.labelled is None else found | {"widest_labels": self.labelled}
