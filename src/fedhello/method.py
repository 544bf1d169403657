"""A method: an allocator, an aggregator, and what else a federation needs to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

from pydantic import BaseModel

from fedhello.aggregation.layerwise import add_layerwise, average_layerwise
from fedhello.aggregation.sums import SumAggregator, take_mean
from fedhello.allocation.freezing import open_for_good, within_open_blocks
from fedhello.allocation.schedule import never
from fedhello.allocation.scoring import unscored
from fedhello.factors import send_part
from fedhello.strategy import (
    ALL_OR_NOTHING,
    STEPS,
    Aggregator,
    Allocator,
    BoundMethod,
    Check,
    FreezingOptions,
    LocalOptions,
    Models,
    ScoreSchedule,
    ScoringOptions,
    Sender,
    options_model,
    options_of,
    plain,
    runs_anywhere,
    the_global_model,
)

Needs = Literal["sum", "products", "single"]
"""What the server needs of the clients' updates: their sum, the sum of the dense products B A, or each of them."""


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        name: The name in configurations.
        summary: One line that describes the method.
        paper: The source.
        allocate: The allocator; see ``Allocator``.
        aggregate: The aggregator; see ``Aggregator``.
        allocates: Whether a tier's budget counts ``blocks``, ``ranks``, or ``either``.
        send: What a client starts from; see ``Sender``.
        scores_due: Whether Fisher scores are recomputed in a round.
        scoring: Whose data Fisher scores are computed on, and on how many samples.
        freezing: After how many rounds blocks close from below, if the allocator keeps to ``AllocationContext.closed``.
        local: The settings of local training that the method changes.
        models: The models that a run results in, by name.
        check: Returns why the method cannot run in a federation, or None.
        pooled: Whether one client holds the data of all clients, as a reference.
        distils: Whether the method needs a public set.
        merges: Whether it adds products to frozen weights, which must be float32 then.
        of_products: Whether it aggregates the products B A, so that a sum over clients would be of dense matrices.
        alternates: Whether it decides in each round which factor trains.
        head_alone: Whether no block trains and only the head is solved or trained.
        server_alone: Whether the head is solved from the server's own samples, without clients.

    Example:
        >>> fh.METHODS["fedit"].allocates, sorted(fh.METHODS["fim-hla"].options.model_fields)
        ('ranks', ['clusters', 'freeze_from_below', 'refresh', 'score_samples', 'scores', 'weighting'])
    """

    name: str
    summary: str
    paper: str
    allocate: Allocator
    aggregate: Aggregator = average_layerwise
    allocates: Literal["blocks", "ranks", "either"] = "blocks"
    send: Sender = send_part
    scores_due: ScoreSchedule = never
    scoring: ScoringOptions = unscored
    freezing: FreezingOptions = open_for_good
    local: LocalOptions = plain
    models: Models = the_global_model
    check: Check = runs_anywhere
    pooled: bool = False
    distils: bool = False
    merges: bool = False
    of_products: bool = False
    alternates: bool = False
    head_alone: bool = False
    server_alone: bool = False

    @property
    def needs(self) -> Needs:
        """What the server needs of the clients: their ``sum``, the sum of their ``products``, or ``single`` updates."""
        if isinstance(self.aggregate, SumAggregator):
            return "sum"
        return "products" if self.of_products else "single"

    @property
    def averages_layerwise(self) -> bool:
        """Whether updates are averaged layer by layer, as in Fed-HeLLo."""
        how = self.aggregate
        return isinstance(how, SumAggregator) and getattr(how.contribute, "func", how.contribute) is add_layerwise

    @property
    def is_plain_mean(self) -> bool:
        """Whether the new adapter is that layer-wise mean itself, which another rule or a release can replace."""
        how = self.aggregate
        return self.averages_layerwise and isinstance(how, SumAggregator) and how.finish is take_mean

    @property
    def steps(self) -> tuple[float, ...]:
        """The step sizes α that the server may search: all of them, only 0 and 1, or none.

        With several models there is no single validation loss. Products that clients add to their frozen weights cannot
        be scaled or removed afterwards.
        """
        if self.averages_layerwise:
            return STEPS
        return () if self.merges or self.models is not the_global_model else ALL_OR_NOTHING

    @property
    def uses_scores(self) -> bool:
        """Whether the method uses Fisher scores, and so needs a proxy set or clients that compute them."""
        return self.scores_due is not never

    @cached_property
    def options(self) -> type[BaseModel]:
        """A pydantic model of the method's options: the keyword-only parameters of its functions."""
        how = self.aggregate
        aggregating = how.functions if isinstance(how, SumAggregator) else (how,)
        functions = (self.allocate, self.send, *aggregating, self.scores_due, self.scoring, self.freezing, self.local)
        return options_model(self.name, functions)

    def bind(self, **options: Any) -> BoundMethod:
        """Return the method with its options checked; missing options take their defaults.

        Args:
            options: Options by name; the property ``options`` lists them.

        Raises:
            pydantic.ValidationError: If an option is unknown or of a wrong type or value.
        """
        values = self.options(**options).model_dump()

        def fill(function: Callable[..., Any]) -> Callable[..., Any]:
            return partial(function, **{p.name: values[p.name] for p in options_of(function)})

        aggregate: Aggregator
        if isinstance(self.aggregate, SumAggregator):
            own = {p.name for function in self.aggregate.functions for p in options_of(function)}
            aggregate = self.aggregate.with_options(**{name: values[name] for name in own})
        else:
            aggregate = fill(self.aggregate)
        every, allocate = fill(self.freezing)(), fill(self.allocate)
        return BoundMethod(
            name=self.name,
            allocate=allocate if every is None else partial(within_open_blocks, allocate=allocate),
            send=fill(self.send),
            aggregate=aggregate,
            scores_due=fill(self.scores_due),
            models=self.models,
            local=fill(self.local)(),
            scoring=fill(self.scoring)(),
            steps=self.steps,
            freeze_every=every,
        )
