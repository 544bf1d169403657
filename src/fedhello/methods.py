"""The table of methods: a method is an allocation strategy, an aggregator and a paper.

To add one, write its strategy (or aggregator) as one function whose keyword-only parameters, with types and
defaults, are its options, and add one row here. Configuration keys, their checks and the command line follow
from the function's signature.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.allocation.fisher import fim_hla
from fedhello.allocation.geometric import gd_hla, rgd_hla
from fedhello.allocation.schedule import after_warmup, fed_hello, never, periodically
from fedhello.types import Adapter, Aggregator, Allocation, Allocator, Situation, Update

ScoreSchedule = Callable[[int], bool]
"""Whether Fisher scores are computed anew in round t."""


@dataclass(frozen=True)
class BoundMethod:
    """A method with its options filled in, as Algorithm 1 uses it."""

    name: str
    allocate: Callable[[Situation], Allocation]
    aggregate: Callable[[Adapter, Iterable[Update]], Adapter]
    scores_due: Callable[[int], bool]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: Its id in configurations.
        summary: One line for people.
        paper: Where it comes from.
        allocate: Who trains what.
        aggregate: How updates combine.
        scores_due: When Fisher scores are computed anew.
    """

    name: str
    summary: str
    paper: str
    allocate: Allocator
    aggregate: Aggregator = average_layerwise
    scores_due: ScoreSchedule = never

    @property
    def uses_scores(self) -> bool:
        """Whether the method ever asks for Fisher scores, and so needs a proxy set."""
        return self.scores_due is not never

    @cached_property
    def options(self) -> type[BaseModel]:
        """A pydantic model of the method's options: the keyword-only parameters of its functions."""
        fields: dict[str, Any] = {}
        for function in (self.allocate, self.aggregate, self.scores_due):
            for p in _options_of(function):
                field = (p.annotation, p.default)
                if p.default is p.empty or fields.setdefault(p.name, field) != field:
                    raise TypeError(
                        f"option {p.name} of {self.name} needs one default and one type in all its functions"
                    )
        return create_model(
            f"options of {self.name}",
            __config__=ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False),
            **fields,
        )

    def bind(self, **options: Any) -> BoundMethod:
        """Check the options and fill them in; those not given take their defaults.

        Raises:
            pydantic.ValidationError: If an option is unknown or of a wrong type or value.
        """
        values = self.options(**options).model_dump()

        def fill(function: Callable[..., Any]) -> Callable[..., Any]:
            return partial(function, **{p.name: values[p.name] for p in _options_of(function)})

        return BoundMethod(self.name, fill(self.allocate), fill(self.aggregate), fill(self.scores_due))


def _options_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


_FED_HELLO = "Zhang et al., Fed-HeLLo, IEEE TNNLS 36(10), 2025, arXiv 2506.12213"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="fed-hello",
            summary="randomised geometric warm start, then Fisher scores (the paper's co-design)",
            paper=f"{_FED_HELLO}, Algorithm 1",
            allocate=fed_hello,
            scores_due=after_warmup,
        ),
        Method(
            name="fim-hla",
            summary="blocks drawn by Fisher score, recomputed every `refresh` rounds",
            paper=f"{_FED_HELLO}, FIM-HLA",
            allocate=fim_hla,
            scores_due=periodically,
        ),
        Method(
            name="gd-hla",
            summary="each client keeps the blocks of a geometric pattern",
            paper=f"{_FED_HELLO}, GD-HLA",
            allocate=gd_hla,
        ),
        Method(
            name="rgd-hla",
            summary="blocks drawn anew each round from a geometric pattern",
            paper=f"{_FED_HELLO}, RGD-HLA",
            allocate=rgd_hla,
        ),
    )
}
