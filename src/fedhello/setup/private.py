"""A session under differential privacy: what it needs, and what of its clients it does not tell."""

import importlib.util
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fedhello.algorithm import sample_clients
from fedhello.client.private_training import check_samples_apart
from fedhello.data.batches import Batch
from fedhello.errors import ConfigError, MissingExtraError
from fedhello.model.adapter import LoraModel
from fedhello.model.private_sums import PrivatePlan
from fedhello.privacy.banded import summed_noise
from fedhello.session import ClientEntry
from fedhello.types import Allocation, Factors, Federation

FEW = 100
"""With fewer clients than this, noise costs most of what the clients contribute."""

PACKAGE = "dp_accounting"


def check_accounting() -> None:
    """Check that the package for accounting is installed.

    Raises:
        MissingExtraError: If it is not.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingExtraError("privacy.epsilon needs a package for accounting; run: pip install 'fedhello[privacy]'")


def check_turns(federation: Federation) -> None:
    """Check that there are enough clients that can take part, for rounds between which they take turns.

    Raises:
        ConfigError: If there are not.
    """
    needed = federation.clients_per_round * federation.cycle
    if federation.cycle > 1 and len(federation.clients) < needed:
        raise ConfigError(
            f"expected {needed} clients or more, since {federation.cycle} rounds have {federation.clients_per_round} "
            f"other clients each (privacy.band); found {len(federation.clients)} that can take part. Lower "
            "privacy.band or train.clients_per_round."
        )


def anonymous(roster: Iterable[ClientEntry]) -> tuple[ClientEntry, ...]:
    """Return the clients without sample counts and labels, which are not part of any release."""
    return tuple(replace(entry, samples=0, labels=()) for entry in roster)


def first_clip(model: LoraModel, factors: Factors, last_blocks: int | None, lr: float) -> float:
    """Return C of the first round: the length of one step of Adam, η √n, on the n numbers that may train.

    Args:
        model: The model.
        factors: The LoRA factors that train.
        last_blocks: Only so many of the last blocks train; None for all.
        lr: η.
    """
    L = model.blocks.count
    whole = Allocation(tuple(range(L - min(last_blocks or L, L), L)), factors=factors, head=False)
    adapter = model.snapshot(share_head=False)
    return lr * math.sqrt(sum(adapter.tensors[name].numel() for name in adapter.names(whole)))


def check_steps(model: LoraModel, factors: Factors, batch: Batch) -> None:
    """Check that gradients of single samples can be computed for the factors that train.

    Args:
        model: The model.
        factors: The LoRA factors that train.
        batch: A few samples.

    Raises:
        ModelError: If they cannot.
    """
    adapter = model.snapshot(share_head=False)
    everything = Allocation(tuple(range(model.blocks.count)), factors=factors, head=False)
    check_samples_apart(model, adapter.names(everything), batch)


def most_rounds(federation: Federation, rounds: int) -> int:
    """Return the most rounds that one client is part of, if every round succeeds at once; at least 1.

    Args:
        federation: With the seed that clients are drawn by.
        rounds: T.
    """
    times = Counter(client.id for t in range(rounds) for client in sample_clients(federation, t))
    return max(times.values(), default=1)


def private_notes(plan: PrivatePlan, clients: int, played: int) -> Iterator[str]:
    """Yield notes on the noise, and on how many clients it takes.

    Args:
        plan: What is released.
        clients: Number of clients.
        played: Number of rounds.
    """
    head, most, unit = plan.head, plan.statistics.most, plan.statistics.unit
    yield (
        f"under differential privacy {head.name} are released once: each {unit}'s are clipped to length {most:.3g}, "
        f"and noise of deviation {head.noise:.3g} times that is added to every number of their sum; with all that "
        f"follows ε={plan.epsilon:g} at δ={plan.delta:g}; sample counts and labels of clients are not shown"
    )
    if plan.rounds is not None:
        rounds = plan.rounds
        blocks = "all blocks" if rounds.last_blocks is None else f"the last {rounds.last_blocks} blocks"
        clip = "a clip that follows the median length" if rounds.adapts else "that clip"
        who = (
            f"a client is in it with probability {rounds.rate:.3g}, drawn by the operating system"
            if rounds.band == 1
            else f"a client is in one of {rounds.band} rounds at most"
        )
        yield (
            f"each of {played} rounds is released: {who}, counts once whatever its samples, trains {rounds.factors} in "
            f"{blocks} alone, and noise of deviation {rounds.release.noise:.3g} times {clip} is added "
            "(privacy.factors, privacy.last_blocks, privacy.update_clip)"
        )
        if rounds.band > 1:
            yield (
                f"the noise of {rounds.band} rounds is correlated: on the sum of all rounds it is "
                f"{summed_noise(rounds.band, played):.2f} times as long as independent noise (privacy.mechanism)"
            )
    if plan.steps is not None:
        steps = plan.steps
        blocks = "all blocks" if steps.last_blocks is None else f"the last {steps.last_blocks} blocks"
        clip = "the median length on the server's samples" if steps.clip is None else f"{steps.clip:g}"
        taken, times = _counted(steps.steps, "step"), _counted(plan.times, "round")
        yield (
            f"a client takes {taken} in a round, and is part of {times} at most: a sample is in a step with "
            f"probability {steps.release.rate:.3g}, drawn by the operating system; its gradient by {steps.factors} in "
            f"{blocks} is clipped to {clip}, and the client adds noise of deviation "
            f"{steps.release.noise:.3g} times that to their sum; how many samples a client has is taken as known "
            "(privacy.split, privacy.factors, privacy.last_blocks, privacy.update_clip)"
        )
    if plan.scores is not None:
        yield (
            f"Fisher scores of clients are released in {plan.scored} rounds: each client's sum to 1, and noise of "
            f"deviation {plan.scores.noise:.3g} is added to their sum (privacy.score_split)"
        )
    if clients < FEW and unit == "client":
        yield (
            f"{clients} clients are few for privacy of whole clients: the noise on every number is {head.noise:.3g} "
            f"times as large as all that one client may contribute; with {FEW} or more it begins to be averaged out. "
            "privacy.unit=sample protects single samples instead"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
