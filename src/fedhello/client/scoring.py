"""What a client reports for Fisher scores: sums over samples of its own, within its memory.

    Σ_{d ∈ D_k} ‖∇_{θ_l} log p(y_d | x_d)‖²  for every block l,        and |D_k|

under the round's global adapter, see ``fedhello.client.fisher``. D_k are all samples of client k, or as many as are
asked for, drawn anew for each round. The server adds the sums up and divides once, so the scores do not depend on how
the data is split over the clients, and the sums could be masked, or get noise, on their way.

A pass holds a graph through all blocks, whatever the client's budget lets it train. Its bytes are predicted from a few
tiny passes, and a client's batches are as large as its memory allows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedhello.client.calibration import calibration_length, made_up
from fedhello.client.cost_model import Growth, Peak
from fedhello.client.fisher import over_batches, squared_gradients
from fedhello.client.memory import RESERVE, StepMemory
from fedhello.data.batches import Samples
from fedhello.errors import UpdateError
from fedhello.formatting import human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.randomness import generator
from fedhello.types import Adapter, Allocation, Client, Task

LARGEST_BATCH = 32
"""Samples per pass, at most."""

LARGEST_SQUARE = 1e15
"""‖∇_{θ_l} log p‖² of a sample that no model comes near."""


@dataclass(frozen=True)
class BlockSums:
    """What one client contributes to the scores; float64.

    Attributes:
        squares: Σ_d ‖∇_{θ_l} log p(y_d | x_d)‖², shape (L,).
        count: |D_k|, shape ().
    """

    squares: Tensor
    count: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Both by name, as they travel."""
        return {"squares": self.squares, "count": self.count}


@dataclass(frozen=True)
class ScoreRequest:
    """What the clients of a round are asked for.

    Attributes:
        adapter: θ.
        clients: S_t, ascending id; ``budget.memory`` is what a pass may take.
        round: t.
        attempt: How many attempts at the round have failed before.
        samples: The most samples that each uses.
    """

    adapter: Adapter
    clients: tuple[Client, ...]
    round: int
    attempt: int
    samples: int

    def task(self, client: int) -> Task:
        """Return what a client is sent: the whole global adapter, of which nothing trains."""
        return Task(client, self.round, Allocation(()), self.adapter, attempt=self.attempt)

    def most(self, samples: int) -> int:
        """Return how many samples a client uses that has so many."""
        return min(self.samples, samples)


@dataclass(frozen=True)
class ScoreReply:
    """What came of asking one client.

    Attributes:
        client: Its id.
        sums: Its contribution; None if there is none that counts.
        note: Why there is none, or what was done otherwise than planned.
        bytes_down: Bytes that it was sent.
        bytes_up: Bytes of its reply.
    """

    client: int
    sums: BlockSums | None
    note: str = ""
    bytes_down: int = 0
    bytes_up: int = 0


def client_sums(model: LoraModel, data: Samples, who: tuple[int, int, int], samples: int, batch_size: int) -> BlockSums:
    """Return a client's contribution under the values that the model holds now.

    Args:
        model: The model; its values stay as they are.
        data: The client's samples, at least one.
        who: Seed, round and client, which the draw of samples belongs to.
        samples: The most to use.
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


def check_block_sums(sums: BlockSums, most: int) -> None:
    """Check that sums can come from as many samples as their client was asked for, so that none weighs more than that.

    Args:
        sums: Finite, of one client.
        most: The most samples that it could use.

    Raises:
        UpdateError: If they cannot: |D_k| is a whole number within 1 … ``most``, and each sum is within 0 …
            ``LARGEST_SQUARE`` · |D_k|.
    """
    count = float(sums.count)
    if count != round(count) or not 1 <= count <= most:
        raise UpdateError(f"expected sums over 1 to {most} samples; found {count:g}", "wrong count")
    if bool((sums.squares < 0).any() | (sums.squares > LARGEST_SQUARE * count).any()):
        raise UpdateError("expected sums of squared gradients; found negative ones, or larger ones", "out of bounds")


def mean_scores(parts: Iterable[BlockSums]) -> tuple[float, ...]:
    """Return Γ_l = Σ_k (squares)_{k,l} / Σ_k |D_k|, L scores ≥ 0, from one contribution or more in ascending client id.

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
    """Measure the peak bytes of scoring passes on a few tiny batches; the model's values stay as they are.

    Args:
        model: The model; it is left with its factors trainable, and in evaluation mode.
        answer: Of a language model, the tokens of the longest response.
    """
    long = calibration_length(model)
    short = max(1, long // 3)
    shapes = list(dict.fromkeys(((1, short), (2, short), (1, long), (2, long))))  # images are all of one length
    peaks = []
    for shape in shapes:
        with StepMemory(model.module.parameters()) as memory:
            over_batches(model, [made_up(model, *shape, answer)])
        peaks.append(memory.peak_bytes)
    # In short texts the peak may be of another moment than in long ones: a line through the short ones.
    line = Growth.through(shapes[:2], peaks[:2], "c α")
    return Peak((Growth.through(shapes, peaks, "c γ α β"), line))


def fitted_batch(peak: Peak | None, memory: int | None, longest: int) -> tuple[int, str]:
    """Return how many samples a pass may have, and a note where not even one fits.

    Args:
        peak: What passes take; None predicts nothing.
        memory: Bytes that they may take; None does not bind.
        longest: Tokens of the client's longest sample.
    """
    if peak is None or memory is None:
        return LARGEST_BATCH, ""
    sizes = range(LARGEST_BATCH, 0, -1)
    fitting = next((b for b in sizes if peak.at([(b, longest)]) + RESERVE <= memory), None)
    if fitting is not None:
        return fitting, ""
    least = peak.at([(1, longest)]) + RESERVE
    return 1, f"one sample takes {human_bytes(least)} of its {human_bytes(memory)} of memory"
