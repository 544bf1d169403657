"""The noise of a run under differential privacy, beside that of other choices under the same budget."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from fedhello.privacy.banded import summed_noise
from fedhello.privacy.rounds import PrivateRounds, noise_over_clip, representatives
from fedhello.privacy.samples import PrivateSteps
from fedhello.session import Session
from fedhello.strategy import AllocationContext
from fedhello.types import LORA_A, LORA_B, Factors


@dataclass(frozen=True)
class NoisePlan:
    """What may train under differential privacy, and how much noise a step gets.

    Attributes:
        what: What trains; but for this run, all clients train the same.
        numbers: How many numbers.
        noise_over_clip: Length of the noise on a round's step over the largest mean step of the clients, C; where
            single samples are protected, on a step of the smallest client over the largest mean gradient of its
            samples; of the head's, over the largest mean contribution of a client. With a band of rounds, whose noise
            cancels in part: of the independent noise that is as long on the sum of all rounds.
    """

    what: str
    numbers: int
    noise_over_clip: float


def noise_plans(session: Session) -> tuple[NoisePlan, ...]:
    """Return the noise of a session's steps, of others with the same noise multiplier, and of its head for clients.

    Empty if the session is without differential privacy, or nothing trains. Which blocks train is taken from the first
    round, with equal Fisher scores if the method needs scores.
    """
    plan = session.private
    how = None if plan is None else plan.rounds or plan.steps
    if plan is None or how is None:
        return ()
    T, L, K = session.settings.rounds, session.federation.num_blocks, len(session.federation.clients)
    sizes = {end: _sizes(session, end) for end in (LORA_A, LORA_B)}

    def others(what: str, factors: Factors, blocks: int, share_of_rank: float = 1.0) -> NoisePlan:
        alike = _of(sizes, factors, range(L - blocks, L))
        numbers = {l: round(n * share_of_rank) for l, n in alike.items()}
        return NoisePlan(what, sum(numbers.values()), _noise(how, numbers, dict.fromkeys(numbers, K), T))

    counts = _planned(session)
    ours = _of(sizes, how.factors, counts)
    R, few = session.federation.rank, min(2, L)
    d = session.initial[session.model.head_tensor_name("weight")].shape
    head = d[0] * (d[1] + 1) + (d[1] * (d[1] + 1) // 2 if plan.statistics.moments else 0)
    found = (
        NoisePlan(
            f"this run: {how.factors} in blocks {', '.join(map(str, counts))}, rank {R}",
            sum(ours.values()),
            _noise(how, ours, counts, T),
        ),
        others(f"A and B in all blocks, rank {R}", "AB", L),
        others(f"B in all blocks, rank {R}", "B", L),
        others(f"B in the last {few} blocks, rank {R}", "B", few),
        others(f"B in the last {few} blocks, rank 1", "B", few, 1 / R),
    )
    if isinstance(how, PrivateSteps):  # of the head's sum, how many samples it has is not known here
        return found
    return (*found, NoisePlan("the head's sums, once", head, noise_over_clip(plan.head.noise, 1.0, {0: head}, {0: K})))


def _noise(
    how: PrivateRounds | PrivateSteps, sizes: Mapping[int, int], counts: Mapping[int, int], rounds: int
) -> float:
    """Return the length of the noise on a step, over C; see ``NoisePlan``."""
    if isinstance(how, PrivateSteps):
        return how.release.noise * math.sqrt(sum(sizes.values())) / how.batch
    return noise_over_clip(how.release.noise * summed_noise(how.band, rounds), how.rate, sizes, counts)


def _sizes(session: Session, end: str) -> dict[int, int]:
    """Return block → how many numbers its factors with this ending hold."""
    found: Counter[int] = Counter()
    for name, block in session.model.block_of.items():
        if block is not None and name.endswith(end):
            found[block] += session.initial[name].numel()
    return found


def _of(
    sizes: Mapping[str, Mapping[int, int]], factors: Factors, blocks: Sequence[int] | Mapping[int, int] | range
) -> dict[int, int]:
    ends = {"A": (LORA_A,), "B": (LORA_B,), "AB": (LORA_A, LORA_B)}[factors]
    return {l: sum(sizes[end][l] for end in ends) for l in blocks}


def _planned(session: Session) -> dict[int, int]:
    """Return block → how many of all clients would train it in the first round; ascending."""
    federation = session.federation
    scores = (1.0,) * federation.num_blocks if session.method.scores_due(0) else None
    found: dict[int, float] = defaultdict(float)
    for client, times in representatives(federation, 0):
        allocation = session.method.allocate(AllocationContext(client, federation, 0, scores))
        for l in () if allocation is None else allocation.blocks:
            found[l] += times
    return {l: round(found[l]) for l in sorted(found)}


def write_noise(plans: Sequence[NoisePlan]) -> list[dict[str, Any]]:
    """Return the rows as ``fedhello plan --json`` prints them."""
    return [{"what": one.what, "numbers": one.numbers, "noise_over_clip": one.noise_over_clip} for one in plans]


def noise_table(plans: Sequence[NoisePlan]) -> Table:
    """Return the rows as a table for people."""
    table = Table("what trains under differential privacy", "numbers", "noise / largest mean step", box=None)
    for one in plans:
        table.add_row(one.what, f"{one.numbers:,}", f"{one.noise_over_clip:.2f}")
    return table
