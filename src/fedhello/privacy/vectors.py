"""Contributions as vectors of whole numbers: what secure aggregation adds up.

A client's contribution to a round is a vector of length m: Σ w x and Σ w of every tensor, zeros where it trained
nothing, and the sums of a few numbers such as n·loss. A number v within ± V becomes, with b = 32 bits and n
clients,

    q = round(v / V · Q),        Q = ⌊(2^(b−1) − 1) / n⌋

and q modulo 2^b is sent, so that the sum of n of them never wraps around. What is beyond ± V is cut off there, and
counted in the vector itself. The sum of n numbers is off by at most n V / (2Q). Weights w ≤ W are multiplied by
⌊Q / W⌋ instead, so that whole numbers are summed exactly.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedhello.aggregation.mean import WeightedMean
from fedhello.errors import PrivacyError, UpdateError
from fedhello.factors import along_components
from fedhello.types import LORA_A, LORA_B

BITS = 32
"""b of the numbers that updates are sent as."""

LEAST = 3
"""Fewer clients than this are never summed: of two, each knows the other's vector from the sum."""

CUT = "cut off"
"""The number in the vector that counts entries beyond the limit."""


@dataclass(frozen=True)
class Encoding:
    """How a contribution becomes whole numbers.

    Attributes:
        shapes: Name → the shape of Σ w x.
        weight_shapes: Name → the shape of Σ w, which broadcasts to it.
        limit: The largest |x|, after which it is cut off.
        most: W, the largest weight of a client.
        clients: n, the most clients in a sum.
        numbers: Name → the largest absolute value, of single numbers that are summed besides, such as n·loss.
        counts: Whether weights and the number of entries beyond the limit are part of the vector. Without them, entries
            are rounded towards zero, so that no contribution gets longer.
    """

    shapes: Mapping[str, tuple[int, ...]]
    weight_shapes: Mapping[str, tuple[int, ...]]
    limit: float
    most: float
    clients: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    counts: bool = True

    @property
    def largest(self) -> int:
        """Q, the largest whole number that one client sends."""
        return ((1 << (BITS - 1)) - 1) // self.clients

    @property
    def error(self) -> float:
        """The most by which an entry of Σ w x is off: n W limit / (2Q)."""
        return self.clients * self.most * self.limit / (2 * self.largest)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """How many entries hold Σ w x, and how many the weights."""
        weights = sum(map(math.prod, self.weight_shapes.values())) if self.counts else 0
        return sum(map(math.prod, self.shapes.values())), weights

    @property
    def length(self) -> int:
        """m, the entries of a vector."""
        return sum(self.sizes) + len(self.numbers) + self.counts

    @property
    def _scales(self) -> tuple[float, int]:
        """What values and weights are multiplied by."""
        if self.largest < self.most:
            raise PrivacyError(
                f"expected weights of at most {self.largest} in a sum of {self.clients} clients; found "
                f"{self.most:.0f}. Weigh clients equally, or invite fewer."
            )
        return self.largest / (self.most * self.limit), self.largest // math.ceil(self.most)

    def encode(self, sums: WeightedMean, numbers: Mapping[str, float]) -> np.ndarray:
        """Return a client's vector.

        Args:
            sums: Its contribution; names that are not there count as zeros.
            numbers: The single numbers.

        Returns:
            uint32, shape (m,).

        Raises:
            UpdateError: If a value is not finite, or a weight is negative or above W.
        """
        if foreign := sums.sums.keys() - self.shapes.keys():
            raise UpdateError(f"expected sums of what trains in this round; found {min(foreign)}", "wrong tensors")
        values = torch.cat([_flat(sums.sums.get(name), shape) for name, shape in self.shapes.items()])
        weights = torch.cat([_flat(sums.totals.get(name), shape) for name, shape in self.weight_shapes.items()])
        singles = [numbers[name] * self.most * self.limit / bound for name, bound in self.numbers.items()]
        values = torch.cat([values, torch.tensor(singles, dtype=torch.float64)])
        if not bool(values.isfinite().all()):
            raise UpdateError("expected a finite update; it holds values that are not", "not finite")
        if not bool(((weights >= 0) & (weights <= self.most)).all()):
            raise UpdateError(f"expected weights from 0 to {self.most:g}; found others", "wrong count")
        per_value, per_weight = self._scales
        if not self.counts:
            shortened = (values * per_value).trunc().clamp(-self.largest, self.largest)
            return shortened.numpy().astype(np.int64).astype("<u4")
        scaled = (values * per_value).round()
        cut = int((scaled.abs() > self.largest).sum())
        whole = torch.cat([scaled.clamp(-self.largest, self.largest), (weights * per_weight).round()]).numpy()
        return np.append(whole.astype(np.int64), min(cut, self.largest)).astype("<u4")

    def spread(self, kinds: np.ndarray) -> np.ndarray:
        """Return what each weight is of, for all numbers of a vector.

        Args:
            kinds: One for each weight, and one for the single numbers; shape (weights + 1,).

        Returns:
            Shape (m,).
        """
        found, at = [], 0
        for name, shape in self.shapes.items():
            weight_shape = self.weight_shapes[name]
            own = kinds[at : at + math.prod(weight_shape)].reshape(weight_shape)
            found.append(np.broadcast_to(own, shape).reshape(-1))
            at += own.size
        single = kinds[-1:]
        counted = [kinds[:-1], single] if self.counts else []
        return np.concatenate([*found, single.repeat(len(self.numbers)), *counted])

    def names_at(self, positions: np.ndarray) -> list[str]:
        """Return the names of the tensors that some numbers of a vector are values of, in order.

        Args:
            positions: In the vector.
        """
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        found = np.unique(np.searchsorted(ends, positions[positions < self.sizes[0]], side="right"))
        names = list(self.shapes)
        return [names[i] for i in found]

    def by_weight(self, sums: WeightedMean) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each weight, whether a contribution has it, and whether it has values other than zero there.

        Args:
            sums: The contribution.

        Returns:
            Twice bool, shape (weights,).
        """
        weighs, values = [], []
        for name, shape in self.shapes.items():
            weight_shape = self.weight_shapes[name]
            weighs.append(_flat(sums.totals.get(name), weight_shape).numpy() > 0)
            nonzero = _flat(sums.sums.get(name), shape).reshape(shape).numpy() != 0
            aligned = (1,) * (len(shape) - len(weight_shape)) + weight_shape
            shared = tuple(axis for axis, size in enumerate(aligned) if size == 1)
            values.append(nonzero.any(axis=shared).reshape(-1))
        return np.concatenate(weighs), np.concatenate(values)

    def decode(self, total: np.ndarray) -> tuple[WeightedMean, dict[str, float]]:
        """Return what a sum of vectors stands for: the sum of the contributions, and the single numbers.

        Args:
            total: uint32, shape (m,).
        """
        signed = total.view("<i4").astype(np.float64)
        per_value, per_weight = self._scales
        size, weight_size = self.sizes
        end = size + len(self.numbers)
        values = torch.from_numpy(signed[:end] / per_value)
        weights = torch.from_numpy(signed[end : end + weight_size] / per_weight)
        pairs = zip(self.numbers.items(), values[size:].tolist(), strict=True)
        numbers = {name: value * bound / (self.most * self.limit) for (name, bound), value in pairs}
        numbers[CUT] = float(signed[-1]) if self.counts else 0.0
        sums, at, at_weight = WeightedMean(), 0, 0
        for name, shape in self.shapes.items():
            if not self.counts:
                sums.sums[name] = values[at : at + math.prod(shape)].reshape(shape)
                sums.totals[name] = torch.zeros((), dtype=torch.float64)
                at += math.prod(shape)
                continue
            weight = weights[at_weight : at_weight + math.prod(self.weight_shapes[name])]
            if bool((weight > 0).any()):
                sums.sums[name] = values[at : at + math.prod(shape)].reshape(shape)
                sums.totals[name] = weight.reshape(self.weight_shapes[name])
            at, at_weight = at + math.prod(shape), at_weight + len(weight)
        return sums, numbers


def _flat(value: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return the entries of a value that broadcasts to a shape, or zeros; float64."""
    return (torch.zeros((), dtype=torch.float64) if value is None else value.double()).expand(shape).reshape(-1)


def weight_shape(name: str, shape: tuple[int, ...], class_rows: Collection[str]) -> tuple[int, ...]:
    """Return the shape of Σ w of a tensor: one weight, or one for each component of a factor or row of the head.

    Args:
        name: Of the tensor.
        shape: Its own.
        class_rows: The tensors whose rows belong to classes.
    """
    if name.endswith((LORA_A, LORA_B)):
        r = shape[0 if name.endswith(LORA_A) else 1]
        return tuple(along_components(name, torch.empty(r)).shape)
    return (shape[0], *[1] * (len(shape) - 1)) if name in class_rows else ()
