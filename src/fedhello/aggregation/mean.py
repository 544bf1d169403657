"""The running weighted mean that every averaging aggregator is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


@dataclass
class WeightedMean:
    """Σ w x / Σ w for each name, entry by entry, in float64; one sum per name, however many values are added.

    Values come in a fixed order, so equal runs give equal bits.

    Attributes:
        sums: Name → Σ w x.
        totals: Name → Σ w, of a shape that broadcasts to the value's.
    """

    sums: dict[str, Float64[Tensor, "..."]] = field(default_factory=dict)
    totals: dict[str, Float64[Tensor, "..."]] = field(default_factory=dict)

    def add(self, name: str, value: Float[Tensor, "..."], weight: float | Float[Tensor, "..."]) -> None:
        """Add a value with a weight: one number, or one per row or column (then an entry may weigh 0)."""
        w = torch.as_tensor(weight, dtype=torch.float64)
        if name in self.sums:
            self.sums[name].addcmul_(value.double(), w.expand(value.shape))
            self.totals[name] = self.totals[name] + w
        else:
            self.sums[name] = value.double() * w
            self.totals[name] = w

    def include(self, other: "WeightedMean") -> None:
        """Add another's sums to these."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.totals[name] = self.totals[name] + other.totals[name] if name in self.totals else other.totals[name]

    def result(self, before: Mapping[str, Float[Tensor, "..."]]) -> dict[str, Float[Tensor, "..."]]:
        """Return the means in the type of the values before; entries that nothing was added to keep those."""
        return {name: self._result(name, before[name]) for name in self.sums}

    def added(self, name: str, like: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return which entries something was added to: bool, of the shape of ``like``."""
        return (self.totals[name] > 0).expand(like.shape)

    def _result(self, name: str, before: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        total = self.totals[name].expand(before.shape)
        if bool((total > 0).all()):
            return (self.sums[name] / total).to(before.dtype)
        mean = (self.sums[name] / total.clamp_min(torch.finfo(torch.float64).tiny)).to(before.dtype)
        return torch.where(total > 0, mean, before)
