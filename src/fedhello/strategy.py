"""What a method is made of: who trains what, what a client starts from, and how updates combine."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, create_model
from torch import Tensor

from fedhello.randomness import generator
from fedhello.state import RunState
from fedhello.types import Adapter, Allocation, Client, Federation, Rejection, Task, Update


@dataclass(frozen=True)
class AllocationContext:
    """All that an allocator may look at for one client in one round.

    Attributes:
        client: The client.
        federation: The clients, their tiers and L.
        round: t, from 0.
        scores: Γ of the last Fisher scoring, or None.
        excess: How many times its predicted peak this client was seen to need when it went over budget; else 1.
        method_state: What the method remembers.

    Example:
        >>> tier = fh.Budget(blocks=2)
        >>> client = fh.Client(0, 0, tier, samples=70)
        >>> federation = fh.Federation((client,), (tier,), num_blocks=6, clients_per_round=1, seed=0)
        >>> context = fh.AllocationContext(client, federation, round=0)
        >>> fh.METHODS["gd-hla"].bind(pattern="triangle").allocate(context).blocks
        (0, 1)
    """

    client: Client
    federation: Federation
    round: int
    scores: tuple[float, ...] | None = None
    excess: float = 1.0
    method_state: Mapping[str, Tensor] = field(default_factory=dict)

    def rng(self) -> np.random.Generator:
        """Return this client's generator for this round's allocation."""
        return generator(self.federation.seed, "allocation", self.round, self.client.id)


class Allocator(Protocol):
    """Decides what one client trains in one round; keyword-only parameters are the method's options."""

    def __call__(self, context: AllocationContext) -> Allocation | None:
        """Return the client's allocation; None if it sits this round out."""
        ...


class Sender(Protocol):
    """Decides what a client starts from; keyword-only parameters are the method's options."""

    def __call__(self, adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
        """Return the client's task."""
        ...


@dataclass(frozen=True)
class AggregationResult:
    """What a round leads to.

    Attributes:
        adapter: The next global adapter.
        method_state: Name → value: what the method remembers.
        flags: What was done otherwise than asked, one sentence each.
        step: α of a server that searches how far to go; None where it does not.

    Example:
        >>> fh.AggregationResult(fh.Adapter({}, {}), method_state={}).flags
        ()
    """

    adapter: Adapter
    method_state: Mapping[str, Tensor]
    flags: tuple[str, ...] = ()
    step: float | None = None


Distil = Callable[[Sequence[Adapter], "Distillation", int], Sequence[Adapter]]
"""Trains models from each other on the server's public set: (models, how, round) → models."""


@dataclass(frozen=True)
class Distillation:
    """How models learn from each other on the public set.

    Attributes:
        teachers: Each learns from the mean of the ``others``, or of ``all`` including itself.
        temperature: T > 0 of the softmax.
        epochs: Passes over the public set.
        lr: Learning rate.
        batch_size: Samples per step.
    """

    teachers: Literal["others", "all"]
    temperature: float
    epochs: int
    lr: float
    batch_size: int


@dataclass(frozen=True)
class AggregationContext:
    """All that an aggregator may look at besides the updates.

    Attributes:
        adapter: θ, the global adapter of the round.
        federation: The clients, their tiers and L.
        round: t.
        allocations: Client → m_k.
        method_state: What the method remembers of earlier rounds.
        distil: Reaches the public set; None where there is none.
        lr: The state's, which clients train with in place of the configuration's; None for that.

    Example:
        >>> import torch
        >>> client = fh.Client(0, 0, fh.Budget(blocks=1), samples=70)
        >>> federation = fh.Federation((client,), (client.budget,), num_blocks=1, clients_per_round=1, seed=0)
        >>> before = fh.Adapter({"head": torch.zeros(1)}, {"head": None})
        >>> context = fh.AggregationContext(before, federation, round=0, allocations={0: fh.Allocation((0,))})
        >>> context.then({"head": torch.ones(1)}).adapter.tensors["head"]
        tensor([1.])
    """

    adapter: Adapter
    federation: Federation
    round: int
    allocations: Mapping[int, Allocation]
    method_state: Mapping[str, Tensor] = field(default_factory=dict)
    distil: Distil | None = None
    lr: float | None = None

    def components(self, update: "Update", name: str) -> tuple[int, ...]:
        """Return which of the R components an update's tensor holds.

        Args:
            update: A client's.
            name: Of one of its tensors.

        Returns:
            Ascending; empty for the head.
        """
        block = self.adapter.block_of[name]
        return () if block is None else self.allocations[update.client].held(block, self.federation.rank)

    def then(
        self, tensors: Mapping[str, Tensor], method_state: Mapping[str, Tensor] | None = None
    ) -> AggregationResult:
        """Return the outcome with some tensors of the adapter replaced, and something more to remember.

        Args:
            tensors: Name → new value; the others stay the very same.
            method_state: Name → value; earlier ones that are not named stay.
        """
        return AggregationResult(self.adapter.with_tensors(tensors), {**self.method_state, **(method_state or {})})


class Aggregator(Protocol):
    """Combines updates, which arrive one by one in ascending client id; keyword-only parameters are options."""

    def __call__(self, context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
        """Return the next global adapter, and what to remember."""
        ...


ScoreSource = Literal["proxy", "clients"]


@dataclass(frozen=True)
class Scoring:
    """How Fisher scores are computed.

    Attributes:
        source: Whose data serve.
        samples: The most samples that a client uses, max |D_k|.
    """

    source: ScoreSource
    samples: int


ScoreSchedule = Callable[[int], bool]
"""Whether Fisher scores are computed anew in round t."""


ScoringOptions = Callable[..., Scoring]
"""Whose data Fisher scores are computed on, from its options."""


LocalOptions = Callable[..., Mapping[str, Any]]
"""Settings of local training that a method changes, from its options; see ``TrainingSettings``."""


Models = Callable[[RunState, Federation], Mapping[str, Adapter]]
"""The models that a run leads to, by name; accuracies are means over them."""


Check = Callable[[Federation, Adapter], str | None]
"""What keeps a method from running in a federation, as a sentence; None if nothing does."""


def the_global_model(state: RunState, federation: Federation) -> dict[str, Adapter]:
    """Return the one model that most methods lead to."""
    return {"": state.model}


def runs_anywhere(federation: Federation, adapter: Adapter) -> None:
    """For methods that ask for nothing special."""


Screen = Callable[[AggregationContext, Iterable[Update | Rejection]], Iterable[Update | Rejection]]
"""What becomes of the clients' replies before they are combined: some updates may change, or be rejected."""


def all_pass(context: AggregationContext, replies: Iterable[Update | Rejection]) -> Iterable[Update | Rejection]:
    """Let every update pass as it is."""
    return replies


STEPS = (0.0, 0.5, 1.0, 1.5)
"""α of a server that searches how far to go from θ towards what a round led to; see ``aggregation.server``."""


ALL_OR_NOTHING = (0.0, 1.0)
"""α where nothing lies between."""


@dataclass(frozen=True)
class BoundMethod:
    """A method with its options filled in, as Algorithm 1 uses it."""

    name: str
    allocate: Callable[[AllocationContext], Allocation | None]
    send: Callable[[Adapter, Allocation, AllocationContext], Task]
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult]
    scores_due: Callable[[int], bool]
    models: Models
    local: Mapping[str, Any]
    scoring: Scoring
    screen: Screen = all_pass
    steps: tuple[float, ...] = STEPS


def plain() -> Mapping[str, Any]:
    """For methods that leave local training as it is."""
    return {}


def with_fixed_head(bound: BoundMethod) -> BoundMethod:
    """Return a method under which a head that the clients share does not train; who would train it alone sits out."""

    def allocate(context: AllocationContext) -> Allocation | None:
        found = bound.allocate(context)
        return replace(found, head=False) if found is not None and found.blocks else None

    return replace(bound, allocate=allocate)


def options_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return a function's keyword-only parameters, which are the options of the method that it belongs to."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def options_model(name: str, functions: Iterable[Callable[..., Any]]) -> type[BaseModel]:
    """Return a pydantic model of the options of functions: their keyword-only parameters.

    Args:
        name: Whose they are, for messages.
        functions: All that take some.

    Raises:
        TypeError: If an option has no default, or not the same type and default in all of them.
    """
    fields: dict[str, Any] = {}
    for function in functions:
        for p in options_of(function):
            field = (p.annotation, p.default)
            if p.default is p.empty or fields.setdefault(p.name, field) != field:
                raise TypeError(f"option {p.name} of {name} needs one default and one type in all its functions")
    return create_model(
        f"options of {name}",
        __config__=ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False),
        **fields,
    )
