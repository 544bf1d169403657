"""A round whose clients send one masked vector each: what goes into it, and what the server makes of the sum.

A client computes its contribution (see ``aggregation.sums``) of what changed, w (θ_k − θ), from its own part of θ; the
server adds Σ w · θ to the sum. Rules that pad (HeLoRA-Pad) are not linear in the change, and take θ_k itself.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.share import capped
from fedhello.aggregation.sums import SumAggregator
from fedhello.errors import PrivacyError, UpdateError
from fedhello.factors import held_part
from fedhello.privacy.parts import Layout, Plan, laid_out, trained
from fedhello.privacy.rounds import CLIP
from fedhello.privacy.vectors import CUT, LEAST, Encoding, weight_shape
from fedhello.strategy import AggregationContext, AggregationResult
from fedhello.types import LORA_A, LORA_B, Adapter, Allocation, Federation, Task, Update

MASKED = "masked"
"""Name of the only tensor in a masked update."""

LARGEST_LOSS = 100.0
"""A client's mean training loss counts as this much at most."""


@dataclass(frozen=True)
class Opened:
    """What the server learns of vectors.

    Attributes:
        total: Their sum modulo 2^b, shape (m,); zeros in parts that are not opened.
        withheld: The positions of what clients trained, and is not opened.
    """

    total: np.ndarray
    withheld: np.ndarray


Unmask = Callable[[Iterable[tuple[int, np.ndarray]]], Opened]
"""Adds up masked vectors as they come, by client, has the masks taken out, and returns the sum of the vectors."""


@dataclass(frozen=True)
class SecureSettings:
    """How sums are masked.

    Attributes:
        limit: The largest change of a number in a round; what is beyond is cut off, and counted.
        group: Clients are summed in groups of at most so many, each of which the server learns the sum of.
        cohorts: Clients send only what they train, and the server learns nothing of what fewer than so many trained;
            None sends whole vectors, with ``LEAST`` in its place.
    """

    limit: float = 2.0
    group: int = 50
    cohorts: int | None = None

    @property
    def least(self) -> int:
        """The fewest clients that may have trained what the server learns the sum of."""
        return self.cohorts or LEAST


@dataclass(frozen=True)
class SecureRound:
    """What clients and server of a run agree on.

    Attributes:
        aggregator: The method's, with its options.
        federation: The clients.
        adapter: The global adapter, for its shapes.
        settings: How sums are masked.
        most_samples: The most samples that a client weighs for, by which it caps its own weight; None for no limit.
        losses: Whether clients tell their losses and samples in the sum.
    """

    aggregator: SumAggregator
    federation: Federation
    adapter: Adapter
    settings: SecureSettings
    most_samples: int | None = None
    losses: bool = True
    _encodings: dict[tuple[str, bool], Encoding] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def longest(self) -> int:
        """More numbers than a vector of this model can have, which a client accepts."""
        return 4 * sum(value.numel() + sum(value.shape) for value in self.adapter.tensors.values()) + 1000

    def encoding(self, allocation: Allocation) -> Encoding:
        """Return how contributions to a round are encoded: every tensor that some client may train in it.

        Args:
            allocation: Of one of its clients; which factors train, and whether the head does, is the same for all.
        """
        kind = allocation.factors, allocation.head
        if kind not in self._encodings:
            self._encodings[kind] = self._encoded(allocation)
        return self._encodings[kind]

    def _encoded(self, allocation: Allocation) -> Encoding:
        federation, shapes = self.federation, self._shapes(allocation)
        weights = {name: weight_shape(name, shape, federation.class_rows) for name, shape in shapes.items()}
        samples = min(max(federation.sizes, default=0), self.most_samples or sys.maxsize)
        return Encoding(
            shapes,
            weights,
            self.settings.limit,
            self._heaviest(samples, allocation),
            self._most_clients,  # of all groups, whose sums are added up before they are decoded
            {"loss": LARGEST_LOSS * samples, "samples": float(samples)} if self._told else {},
            self.aggregator.counts,
        )

    @property
    def _told(self) -> bool:
        """Whether losses and samples are part of the vectors."""
        return self.losses and self.aggregator.counts

    @property
    def _most_clients(self) -> int:
        """The most clients of a round; under Poisson sampling more come once in a thousand million rounds."""
        federation = self.federation
        if not federation.poisson:
            return federation.invited
        usual = federation.clients_per_round
        return min(len(federation.clients), math.ceil(usual + 6 * math.sqrt(usual) + 6))

    def _shapes(self, allocation: Allocation) -> dict[str, tuple[int, ...]]:
        everything = self._everything(allocation)
        L, R = self.federation.num_blocks, self.federation.rank
        ranks = {k.id: self.federation.tiers[k.tier].rank or R for k in self.federation.one_of.values()}
        held = {k: replace(everything, ranks=(r,) * L) for k, r in ranks.items()}
        context = AggregationContext(self.adapter, self.federation, 0, held)
        ends = {"A": (LORA_A,), "B": (LORA_B,), "AB": (LORA_A, LORA_B)}[allocation.factors]
        reference = self.aggregator.reference(context)
        return {
            name: tuple(reference[name].shape)
            for name in sorted(reference)
            if name.endswith(ends)
            or (allocation.head and not name.endswith((LORA_A, LORA_B)))
            or not (self.aggregator.counts or name in self.adapter.block_of)
        }

    def _everything(self, allocation: Allocation) -> Allocation:
        blocks = tuple(range(self.federation.num_blocks))
        return Allocation(blocks, factors=allocation.factors, head=allocation.head)

    def _heaviest(self, samples: int, allocation: Allocation) -> float:
        """Return W: the weight of a client that has the most samples and trains everything."""
        sums = self._constant(self._everything(allocation), 0.0, samples)
        return max(float(total.max()) for total in sums.totals.values())

    def _constant(self, allocation: Allocation, value: float, samples: int = 1) -> WeightedMean:
        """Return what a client with all classes would contribute if training gave it one value everywhere."""
        one, held = self.federation.clients[0].id, held_part(self.adapter, allocation)
        tensors = {name: torch.full_like(held.tensors[name], value) for name in held.names(allocation)}
        context, sums = self._context(one, allocation, self.adapter), WeightedMean()
        context = replace(context, federation=replace(self.federation, class_rows=()))
        self.aggregator.contribute(context, Update(one, 0, samples, tensors, {"batches": float(samples)}), sums)
        return sums

    def support(self, allocation: Allocation, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each weight of a vector, whether a client adds to it, and whether its training changes it.

        The second is less than the first where a rule pads what a client lacks. Classes are left aside: what clients
        hold of them is not told to others.

        Args:
            allocation: The client's.
            encoding: Of the round.

        Returns:
            Twice bool, shape (weights,).
        """
        zeros, ones = self._constant(allocation, 0.0), self._constant(allocation, 1.0)
        sends, _ = encoding.by_weight(ones)
        change = {name: value - zeros.sums[name] for name, value in ones.sums.items()}
        if not self.aggregator.counts:  # what everybody adds besides its values
            change |= {
                name: torch.ones_like(value) for name, value in change.items() if name not in self.adapter.block_of
            }
        return sends, encoding.by_weight(WeightedMean(change, ones.totals))[1]

    def plan(self, allocations: Mapping[int, Allocation]) -> Plan:
        """Return what the clients of a group are told before they mask their updates.

        Args:
            allocations: Client → its allocation, of those in the group.
        """
        told = {k: trained(allocations[k]) for k in sorted(allocations)}
        encoding = self.encoding(next(iter(told.values())))
        whole = self.settings.cohorts is None
        return Plan(tuple(told), encoding.length, self.settings.least, whole, encoding, told)

    def layout(self, plan: Plan) -> Layout:
        """Return the parts that a plan leads to; server and clients compute them alike.

        Args:
            plan: As told.

        Raises:
            PrivacyError: If the clients are too few, or the plan does not say what each of them trains.
        """
        return laid_out(plan, self.support)

    def _context(
        self, client: int, allocation: Allocation, adapter: Adapter, clip: float | None = None
    ) -> AggregationContext:
        if not allocation.ranks:
            allocation = replace(allocation, ranks=(self.federation.rank,) * self.federation.num_blocks)
        known = {} if clip is None else {CLIP: torch.tensor(clip, dtype=torch.float64)}
        return AggregationContext(adapter, self.federation, 0, {client: allocation}, known)

    def vector(self, task: Task, update: Update, encoding: Encoding | None = None) -> np.ndarray:
        """Return a client's vector; this is what it computes itself, from its task and what it trained.

        Args:
            task: With its part of θ.
            update: Its new values, its samples and its loss.
            encoding: As the server states it; None derives it, for a client that knows the whole federation.

        Raises:
            UpdateError: If a value is not finite, or a weight is impossible.
        """
        update = capped(update, self.most_samples)
        start, tensors = task.adapter.tensors, update.tensors
        if self.aggregator.linear:
            tensors = {name: value.double() - start[name].double() for name, value in tensors.items()}
        zeros = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self.adapter.tensors.items()}
        context = self._context(task.client, task.allocation, replace(self.adapter, tensors=zeros), task.clip)
        sums = WeightedMean()
        self.aggregator.contribute(context, replace(update, tensors=tensors), sums)
        encoding = encoding or self.encoding(task.allocation)
        if encoding.counts != self.aggregator.counts:
            raise UpdateError("expected a plan with the numbers of this run's method; found others", "malformed")
        if not self._told:
            return encoding.encode(sums, {})
        loss = min(update.metrics["loss"], LARGEST_LOSS) * update.samples
        return encoding.encode(sums, {"loss": loss, "samples": float(update.samples)})


def secure_mean(
    context: AggregationContext, updates: Iterable[Update], *, agreed: SecureRound, unmask: Unmask
) -> AggregationResult:
    """Make the next adapter of masked updates.

    Args:
        context: Of the round.
        updates: Each with one tensor, its client's masked vector.
        agreed: How the clients made it.
        unmask: Takes the masks out of the sum.

    Returns:
        What the method makes of the sum; a failed attempt where the sum cannot be had. Under differential privacy it
        counts as zero then, since the noise is released in any case.
    """
    noised = not agreed.aggregator.counts
    if not context.allocations:
        return agreed.aggregator.finish(context, WeightedMean()) if noised else context.then({})
    encoding = agreed.encoding(next(iter(context.allocations.values())))
    try:
        opened = unmask((update.client, update.tensors[MASKED].numpy().view("<u4")) for update in updates)
    except PrivacyError as error:
        if noised:
            flag = f"the secure sum failed, and counts as zero: {error}"
            return replace(agreed.aggregator.finish(context, WeightedMean()), flags=(flag,))
        return replace(context.then({}), failed=f"the secure sum failed: {error}")
    change, numbers = encoding.decode(opened.total)
    sums = _moved(change, agreed.aggregator.reference(context)) if agreed.aggregator.linear else change
    result = agreed.aggregator.finish(context, sums)
    flags = result.flags
    if numbers[CUT]:
        flags += (
            f"{numbers[CUT]:.0f} numbers of clients' sums were beyond privacy.limit = {encoding.limit:g}, and count as "
            "that much",
        )
    if len(opened.withheld):
        blocks = {context.adapter.block_of.get(name.split("/")[-1]) for name in encoding.names_at(opened.withheld)}
        where = ", ".join("the head" if block is None else f"block {block}" for block in sorted(blocks, key=str))
        flags += (
            f"{len(opened.withheld)} numbers of {where} were trained by fewer than {agreed.settings.least} clients of "
            f"a sum, so they are withheld, and {'count as zero' if noised else 'stay as they were'}",
        )
    if noised or not agreed.losses:
        return replace(result, flags=flags)
    return replace(result, flags=flags, train_loss=numbers["loss"] / max(numbers["samples"], 1.0))


def _moved(change: WeightedMean, reference: Mapping[str, Tensor]) -> WeightedMean:
    """Return Σ w θ_k = Σ w (θ_k − θ) + (Σ w) θ."""
    sums = {name: value + change.totals[name] * reference[name].double() for name, value in change.sums.items()}
    return WeightedMean(sums, change.totals)
