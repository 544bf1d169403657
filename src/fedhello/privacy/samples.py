"""Rounds of training that protect single samples: every client trains by DP-SGD, and adds the noise itself.

Abadi et al., "Deep learning with differential privacy" (arXiv 1607.00133). In each of E steps of a round, client k with
the samples D_k, of which there are n_k, draws a batch b: each sample is in it with probability q, independently, by the
operating system's entropy. With the gradient g_i of the loss on sample i by all that the client trains, together,

    g = (Σ_{i ∈ b} g_i min(1, C/‖g_i‖) + σ C z) / (q n_k),        z ~ N(0, I)

is what its optimiser steps along. A sample that counts as nothing, in place of the sample there, changes the sum of a
step by at most C, so a step is a sampled Gaussian with noise multiplier σ and rate q, whatever the optimiser makes of
it, and the guarantee holds towards the server and everybody else. How many samples a client has is taken as known: n_k
is in the divisor. Which clients are part of a round is known, too, and each one's steps are counted alone, since a
sample is at one client (``fedhello.privacy.ledger``).

All clients have the same q, at which the smallest has an expected batch of ``train.batch_size`` (or all of its
samples), and so the same steps: ε is the same for all that are part of equally many rounds. With an expected batch that
is the same for all, q would be largest at the smallest client, whose noise all others had to add.

C is, if nothing else is asked for, the median length of g_i over samples of the server's own before the first round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from fedhello.privacy.rounds import CLIP, narrowed
from fedhello.state import Release
from fedhello.strategy import AllocationContext, BoundMethod
from fedhello.types import Adapter, Allocation, Factors, NoisySteps, Task


@dataclass(frozen=True)
class PrivateSteps:
    """How clients train where single samples are protected.

    Attributes:
        release: One step of a client: σ, and the rate q.
        steps: E, the steps of a client in a round.
        batch: The expected batch of the smallest client, q min n_k.
        clip: C; None for that in the method's state.
        factors: The LoRA factors that train.
        last_blocks: Only so many of the blocks nearest to the output train; None for all that the method allocates.
    """

    release: Release
    steps: int
    batch: float = 1.0
    clip: float | None = None
    factors: Factors = "B"
    last_blocks: int | None = None

    def clip_of(self, method_state: Mapping[str, Tensor]) -> float:
        """Return C, given the method's state.

        Raises:
            ValueError: If C is neither given nor in the state.
        """
        found = self.clip if CLIP not in method_state else float(method_state[CLIP])
        if found is None:
            raise ValueError("expected a clip for steps on single samples in the settings or the state; found none")
        return found

    @property
    def each(self) -> NoisySteps:
        """What a client is told of them."""
        return NoisySteps(self.release.noise, self.release.rate, self.steps)

    def of(self, client: int, rounds: int = 1) -> Release:
        """Return the release of a client's steps in some rounds.

        Args:
            client: Its id.
            rounds: How many.
        """
        return replace(self.release, times=self.steps * rounds, client=client)


def rate_and_steps(batch_size: int, smallest: int, epochs: int) -> tuple[float, int]:
    """Return q and E.

    Args:
        batch_size: The expected batch of the smallest client, if it has as many samples.
        smallest: Its samples, min n_k.
        epochs: How often each sample is expected to be in a batch of a round, rounded to whole steps.
    """
    rate = min(1.0, batch_size / smallest)
    return rate, max(1, round(epochs / rate))


def sample_method(method: BoundMethod, settings: PrivateSteps) -> BoundMethod:
    """Return a method whose clients train as above; who trains what, and how it is combined, is the method's.

    Args:
        method: One that averages layer by layer.
        settings: How clients train.
    """

    def allocate(context: AllocationContext) -> Allocation | None:
        found, L = method.allocate(context), context.federation.num_blocks
        return narrowed(found, L, settings.factors, settings.last_blocks)

    def send(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
        clip = settings.clip_of(context.method_state)
        return replace(method.send(adapter, allocation, context), clip=clip, steps=settings.each)

    return replace(method, allocate=allocate, send=send)
