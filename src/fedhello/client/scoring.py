"""A client's contribution to Fisher scores: sums over its own samples, within its memory budget.

    Σ_{d ∈ D_k} ‖∇_{θ_l} log p(y_d | x_d)‖²  for every block l,        and |D_k|

under the round's global adapter, see ``fedhello.client.fisher``. D_k are all samples of client k, or a random part of
them, drawn for each round. The server adds the sums up and divides once, so the scores do not depend on how the data is
split over the clients, and the sums can be masked or given noise before they are sent.

A pass keeps the graph of all blocks, whatever blocks the client's budget allows it to train. Its bytes are predicted
from a few tiny passes, and a client's batches are as large as its memory budget allows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedhello.client.calibration import UNIT, calibration_batches
from fedhello.client.cost_model import Peak
from fedhello.client.fisher import over_batches, squared_gradients
from fedhello.client.measured_step import shape_of
from fedhello.client.memory import RESERVE, StepMemory
from fedhello.data.batches import Samples
from fedhello.errors import UpdateError
from fedhello.formatting import human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.randomness import generator
from fedhello.types import Adapter, Allocation, Client, Task

LARGEST_BATCH = 32
"""The most samples per pass."""

LARGEST_SQUARE = 1e15
"""Upper bound on ‖∇_{θ_l} log p‖² of a sample, far above that of any model."""


@dataclass(frozen=True)
class BlockSums:
    """One client's contribution to the Fisher scores; float64.

    Attributes:
        squares: Σ_d ‖∇_{θ_l} log p(y_d | x_d)‖², shape (L,).
        count: |D_k|, shape ().
    """

    squares: Tensor
    count: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Both tensors by name, as they are sent."""
        return {"squares": self.squares, "count": self.count}


@dataclass(frozen=True)
class ScoreRequest:
    """A request for Fisher scores to the clients of a round.

    Attributes:
        adapter: θ.
        clients: S_t, ascending id; ``budget.memory`` limits the bytes of a pass.
        round: t.
        attempt: Number of earlier failed attempts at this round.
        samples: The most samples of each client.
        private: Whether contributions are shares; see ``as_shares``.
    """

    adapter: Adapter
    clients: tuple[Client, ...]
    round: int
    attempt: int
    samples: int
    private: bool = False

    def task(self, client: int) -> Task:
        """Return a client's task: the whole global adapter, of which nothing trains."""
        return Task(client, self.round, Allocation(()), self.adapter, attempt=self.attempt)

    def most(self, samples: int) -> int:
        """Return how many of its ``samples`` a client uses."""
        return min(self.samples, samples)


@dataclass(frozen=True)
class ScoreReply:
    """A client's reply to a ``ScoreRequest``, or a sum over several of which no one's is known.

    Attributes:
        clients: The clients, ascending id.
        sums: Their contribution; None if there is none or it does not count.
        note: Why there is no contribution, or how it deviates from the plan.
        bytes_down: Bytes on the wire that they received.
        bytes_up: Bytes on the wire that they sent.
    """

    clients: tuple[int, ...]
    sums: BlockSums | None
    note: str = ""
    bytes_down: int = 0
    bytes_up: int = 0

    @property
    def who(self) -> str:
        """The clients in words."""
        return f"client{'s' * (len(self.clients) > 1)} {', '.join(map(str, self.clients))}"


def client_sums(model: LoraModel, data: Samples, who: tuple[int, int, int], samples: int, batch_size: int) -> BlockSums:
    """Return a client's contribution under the model's current values.

    Args:
        model: The model; its values do not change.
        data: The client's samples, at least one.
        who: Seed, round and client, for the random draw of samples.
        samples: The most samples to use.
        batch_size: Samples per pass; it changes the result by rounding only.

    Raises:
        ModelError: If the model has no score per block, or a gradient is not finite.
    """
    if len(data) > samples:
        seed, round_, client = who
        drawn = generator(seed, "scored samples", round_, client).choice(len(data), size=samples, replace=False)
        data = data.subset(np.sort(drawn))
    squares = squared_gradients(model, data, batch_size)
    return BlockSums(torch.from_numpy(squares), torch.tensor(len(data), dtype=torch.float64))


def as_shares(sums: BlockSums) -> BlockSums:
    """Return a client's contribution under differential privacy: s_l / Σ_l s_l, of length at most 1, and a count of 1.

    So every client weighs the same, whatever its data and however many samples it has. Without gradients all are 0.
    """
    total = float(sums.squares.sum())
    usable = bool(sums.squares.isfinite().all()) and total > 0
    shares = sums.squares / total if usable else torch.zeros_like(sums.squares)
    return BlockSums(shares, torch.ones_like(sums.count))


def check_block_sums(sums: BlockSums, most: int) -> None:
    """Check that a client's sums are possible for the samples requested, so that its weight is limited.

    Args:
        sums: The sums of one client, finite.
        most: The most samples that the client may use.

    Raises:
        UpdateError: If |D_k| is not a whole number within 1 … ``most``, or a sum is not within 0 …
            ``LARGEST_SQUARE`` · |D_k|.
    """
    count = float(sums.count)
    if count != round(count) or not 1 <= count <= most:
        raise UpdateError(f"expected sums over 1 to {most} samples; found {count:g}", "wrong count")
    if bool((sums.squares < 0).any() | (sums.squares > LARGEST_SQUARE * count).any()):
        raise UpdateError("expected sums of squared gradients; found negative or too large values", "out of bounds")


def mean_scores(parts: Iterable[BlockSums]) -> tuple[float, ...]:
    """Return Γ_l = Σ_k (squares)_{k,l} / Σ_k |D_k|, L scores ≥ 0, from at least one contribution, ascending by client.

    Example:
        >>> one = BlockSums(torch.tensor([1.0, 4.0]).double(), torch.tensor(1.0).double())
        >>> more = BlockSums(torch.tensor([5.0, 2.0]).double(), torch.tensor(2.0).double())
        >>> mean_scores([one, more])
        (2.0, 2.0)
    """
    first, *rest = parts
    squares, count = first.squares.clone(), first.count.clone()
    for part in rest:
        squares += part.squares
        count += part.count
    return tuple((squares / count).tolist())


def calibrate_scoring(model: LoraModel, answer: int | None = None) -> Peak:
    """Measure the peak bytes of scoring passes on a few tiny batches; the model's values do not change.

    Args:
        model: The model; afterwards its factors are trainable, and it is in evaluation mode.
        answer: For a language model, the tokens of the longest response.
    """
    shapes, moments = [], []
    for batch in calibration_batches(model, answer is not None, UNIT):
        if batch.shape[0] == 1:
            continue  # an upper bound serves for one sample
        with StepMemory(model.module.parameters()) as memory:
            over_batches(model, [batch])
        shapes.append(shape_of(batch))
        moments.append(memory.live)
    if len({len(found) for found in moments}) > 1:
        moments = [[max(found)] for found in moments]
    return replace(Peak.through(shapes, moments), answer=answer)


def fitted_batch(peak: Peak | None, memory: int | None, longest: int) -> tuple[int, str]:
    """Return the number of samples of a pass, and a note if not even one fits.

    Args:
        peak: The predicted peak bytes of passes; None without a prediction.
        memory: The most bytes of a pass; None is no limit.
        longest: Tokens of the client's longest sample.
    """
    if peak is None or memory is None:
        return LARGEST_BATCH, ""
    sizes = range(LARGEST_BATCH, 0, -1)
    fitting = next((b for b in sizes if peak.at([(b, longest)]) + RESERVE <= memory), None)
    if fitting is not None:
        return fitting, ""
    least = peak.at([(1, longest)]) + RESERVE
    return 1, f"one sample takes {human_bytes(least)}, more than its memory budget of {human_bytes(memory)}"
