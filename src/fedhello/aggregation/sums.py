"""Aggregators that need of the clients only a sum over them.

    S = Σ_k contribution(k),        θ ← finish(S)

A contribution is what ``WeightedMean`` adds up: per name Σ w x and Σ w. A server that adds contributions one by one,
and one that learns nothing but their sum (secure aggregation, noise for privacy), so come to the same adapter.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.strategy import AggregationContext, AggregationResult, options_of
from fedhello.types import Update

Contribute = Callable[..., None]
"""Adds one client's contribution: (context, its update, sums, keyword-only options) → nothing, ``sums`` grows."""

Finish = Callable[..., AggregationResult]
"""Makes the next adapter of the sum: (context, sums, keyword-only options) → the result."""


def take_mean(context: AggregationContext, sums: WeightedMean) -> AggregationResult:
    """Return the adapter with Σ w x / Σ w where Σ w > 0; elsewhere it stays as it was."""
    return context.then(sums.result(context.adapter.tensors))


def global_tensors(context: AggregationContext) -> Mapping[str, Tensor]:
    """Return the tensors that contributions are means of: those of the global adapter."""
    return context.adapter.tensors


@dataclass(frozen=True)
class SumAggregator:
    """An aggregator as a sum over clients and a function of that sum.

    Attributes:
        contribute: Adds one client's contribution; it sees this client's update alone.
        finish: Makes the next adapter of the sum of all contributions.
        reference: Name → the value before the round, for every name that a contribution may have.
        linear: Whether the contribution of θ_k is that of θ_k − θ plus w θ, so that a client may send what changed.
        counts: Whether Σ w is needed; without it, a client tells of nothing but its values.

    Example:
        >>> from fedhello.methods import METHODS
        >>> METHODS["gd-hla"].aggregate.finish.__name__
        'take_mean'
    """

    contribute: Contribute
    finish: Finish = take_mean
    reference: Callable[[AggregationContext], Mapping[str, Tensor]] = global_tensors
    linear: bool = True
    counts: bool = True

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions whose keyword-only parameters are its options."""
        return self.contribute, self.finish

    def with_options(self, **options: Any) -> "SumAggregator":
        """Return it with some options filled in.

        Args:
            options: By name, each a keyword-only parameter of one of its functions, or of both.

        Raises:
            TypeError: If none of its functions takes an option.
        """
        taken = [{p.name for p in options_of(function)} & options.keys() for function in self.functions]
        if unknown := options.keys() - set().union(*taken):
            raise TypeError(f"expected options of the aggregator; found {', '.join(sorted(unknown))}")
        contribute, finish = (
            partial(function, **{name: options[name] for name in sorted(names)}) if names else function
            for function, names in zip(self.functions, taken, strict=True)
        )
        return replace(self, contribute=contribute, finish=finish)

    def __call__(self, context: AggregationContext, updates: Iterable[Update], **options: Any) -> AggregationResult:
        """Add the contributions of updates one by one, and finish.

        Only running sums are kept, in float64: the memory is that of one adapter, however many clients answer. As
        updates come in ascending client id, equal runs give equal bits.

        Args:
            context: With θ, the global adapter that the clients started from.
            updates: The clients' new values, ascending client id.
            options: As ``with_options`` takes them.

        Returns:
            The next global adapter. Tensors without a contributor are the very same objects as before.
        """
        how, sums = self.with_options(**options), WeightedMean()
        for update in updates:
            how.contribute(context, update, sums)
        return how.finish(context, sums)
