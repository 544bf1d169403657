"""The parts of a method: allocator, sender (what a client starts from) and aggregator, with their contexts."""

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
    """The information that an allocator gets for one client in one round.

    Attributes:
        client: The client.
        federation: The clients, their tiers and L.
        round: t, from 0.
        scores: Γ of the last Fisher scoring, or None.
        excess: Measured over predicted memory of this client, if it exceeded its memory budget; else 1.
        method_state: Name → value: the method's state from earlier rounds.
        closed: The number of blocks, from below, that nobody trains any more; see ``fedhello.allocation.freezing``.

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
    closed: int = 0

    def rng(self) -> np.random.Generator:
        """Return the random generator of this client's allocation in this round."""
        return generator(self.federation.seed, "allocation", self.round, self.client.id)


class Allocator(Protocol):
    """Decides what one client trains in one round; keyword-only parameters are the method's options."""

    def __call__(self, context: AllocationContext) -> Allocation | None:
        """Return the client's allocation; None if it does not take part in this round."""
        ...


class Sender(Protocol):
    """Decides what a client starts from; keyword-only parameters are the method's options."""

    def __call__(self, adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
        """Return the client's task."""
        ...


@dataclass(frozen=True)
class AggregationResult:
    """The result of an aggregation.

    Attributes:
        adapter: The next global adapter.
        method_state: Name → value: the method's state for later rounds.
        flags: Deviations from the settings, one sentence each.
        step: α, the step size that the server found; None if it does not search.
        failed: Why the attempt does not count; None if it does.
        train_loss: The clients' mean training loss, if only their sum is known; else None.

    Example:
        >>> fh.AggregationResult(fh.Adapter({}, {}), method_state={}).flags
        ()
    """

    adapter: Adapter
    method_state: Mapping[str, Tensor]
    flags: tuple[str, ...] = ()
    step: float | None = None
    failed: str | None = None
    train_loss: float | None = None


Distil = Callable[[Sequence[Adapter], "Distillation", int], Sequence[Adapter]]
"""Function that distils models on the server's public set: (models, how, round) → models."""


@dataclass(frozen=True)
class Distillation:
    """Settings of the distillation between models on the public set.

    Attributes:
        teachers: Whether a model's teacher is the mean of the ``others``, or of ``all`` including itself.
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
    """The information that an aggregator gets besides the updates.

    Attributes:
        adapter: θ, the global adapter of the round.
        federation: The clients, their tiers and L.
        round: t.
        allocations: Client → m_k.
        method_state: Name → value: the method's state from earlier rounds.
        distil: Distils models on the public set; None without a public set.
        lr: The state's learning rate, in place of the configuration's; None uses the configuration's.
        scores: Γ of the last Fisher scoring, or None.

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
    scores: tuple[float, ...] | None = None

    def components(self, update: "Update", name: str) -> tuple[int, ...]:
        """Return which of the R components a tensor of an update holds.

        Args:
            update: The update of a client.
            name: The name of one of its tensors.

        Returns:
            The components, ascending; empty for the head.
        """
        block = self.adapter.block_of[name]
        return () if block is None else self.allocations[update.client].held(block, self.federation.rank)

    def then(
        self, tensors: Mapping[str, Tensor], method_state: Mapping[str, Tensor] | None = None
    ) -> AggregationResult:
        """Return the result with some tensors of the adapter and of the method's state replaced.

        Args:
            tensors: Name → new value; all other tensors stay the same objects.
            method_state: Name → new value; all other entries stay.
        """
        return AggregationResult(self.adapter.with_tensors(tensors), {**self.method_state, **(method_state or {})})


class Aggregator(Protocol):
    """Combines the updates of a round, in ascending client id; keyword-only parameters are the method's options."""

    def __call__(self, context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
        """Return the next global adapter and method state."""
        ...


ScoreSource = Literal["proxy", "clients"]


@dataclass(frozen=True)
class Scoring:
    """How Fisher scores are computed.

    Attributes:
        source: Whose data they are computed on.
        samples: The most samples of a client, max |D_k|.
    """

    source: ScoreSource
    samples: int


ScoreSchedule = Callable[[int], bool]
"""Whether Fisher scores are recomputed in round t."""


ScoringOptions = Callable[..., Scoring]
"""Function from a method's options to its Fisher scoring."""


LocalOptions = Callable[..., Mapping[str, Any]]
"""Function from a method's options to the settings of local training that it changes; see ``TrainingSettings``."""


FreezingOptions = Callable[..., int | None]
"""Function from a method's options to the number of rounds after which a block may close; None closes none."""


Models = Callable[[RunState, Federation], Mapping[str, Adapter]]
"""Function from a state to the models that a run results in, by name; accuracies are means over them."""


Check = Callable[[Federation, Adapter], str | None]
"""Function that returns, as a sentence, why a method cannot run in a federation; None if it can."""


def the_global_model(state: RunState, federation: Federation) -> dict[str, Adapter]:
    """Return the global model, the only one of most methods."""
    return {"": state.model}


def runs_anywhere(federation: Federation, adapter: Adapter) -> None:
    """Return None: the method runs in every federation."""


Screen = Callable[[AggregationContext, Iterable[Update | Rejection]], Iterable[Update | Rejection]]
"""Function that may change or reject updates before they are aggregated."""


def all_pass(context: AggregationContext, replies: Iterable[Update | Rejection]) -> Iterable[Update | Rejection]:
    """Return the replies unchanged."""
    return replies


STEPS = (0.0, 0.5, 1.0, 1.5)
"""Function that finds the server's step size α from θ towards the aggregated adapter; see ``aggregation.server``."""


ALL_OR_NOTHING = (0.0, 1.0)
"""α for a round that is accepted or rejected as a whole."""


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
    freeze_every: int | None = None


def plain() -> Mapping[str, Any]:
    """Return no changes: local training uses the configured settings."""
    return {}


def with_fixed_head(bound: BoundMethod) -> BoundMethod:
    """Return a method whose shared head does not train; a client that would train only the head does not take part."""

    def allocate(context: AllocationContext) -> Allocation | None:
        found = bound.allocate(context)
        return replace(found, head=False) if found is not None and found.blocks else None

    return replace(bound, allocate=allocate)


def options_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return a function's keyword-only parameters, which are options of its method."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def options_model(name: str, functions: Iterable[Callable[..., Any]]) -> type[BaseModel]:
    """Return a pydantic model of the keyword-only parameters of some functions.

    Args:
        name: The name of the method or partition, for messages.
        functions: The functions.

    Raises:
        TypeError: If an option has no default, or different types or defaults in two functions.
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
