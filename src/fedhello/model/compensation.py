"""Drift compensation with the server's samples: the compensated head and its validation losses."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.data.batches import Samples
from fedhello.model.adapter import LoraModel
from fedhello.model.drift import Drift, estimated_drift, followed
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import Family, Head, calibrated
from fedhello.model.statistics import HeadSums, Moments
from fedhello.model.validation import same_objects
from fedhello.state import RunState
from fedhello.strategy import STEPS
from fedhello.types import Adapter

ALL = -1
"""Cache key for the features of all parts together."""

FOLDS = 5
"""Folds of the cross-validation: the drift is estimated on the other folds."""


@dataclass
class DriftCompensation:
    """A solved head that is compensated for the drift of the features; see ``fedhello.model.drift``.

    The shrinkage is chosen once, under the adapter of the sums. −log p is cross-validated, since a drift estimated on a
    sample fits that sample too well; the temperature minimises it.

    Attributes:
        model: The model; a call leaves the given adapter in it.
        parts: The server's samples: its validation data first, then others, whose labels are not used.
        solve: Sums → the heads of all shrinkages.
        moments: The kind of second moments in the sums.
        shrinkages: The values of a to choose from.
        order: A permutation of the positions in all parts; position order[i] is in fold i mod ``FOLDS``.
        bfloat16: Whether forward passes run in bf16, as those do whose sums the head is solved from.
        state: The run's state with the sums of the head; set by ``begin``.
        solved: Features, sums and shrinkage under the adapter of the sums; None until they are computed.
        known: Cache of the last adapters' features: tensors in the order of their names, and the features of each part
            or of all parts.
        last: Cache of the last cross-validation: base, features and result.
    """

    model: LoraModel
    parts: Sequence[Samples]
    solve: Callable[[HeadSums], Family]
    moments: Moments
    shrinkages: Sequence[float]
    order: np.ndarray
    bfloat16: bool = False
    state: RunState | None = None
    solved: "_Base | None" = None
    known: list[tuple[list[Tensor], dict[int, Tensor]]] = field(default_factory=list)
    last: "tuple[_Base, Tensor, tuple[Tensor, float]] | None" = None

    def without_head(self, adapter: Adapter) -> dict[str, Tensor]:
        """Return an adapter's tensors without the head."""
        return {name: value for name, value in adapter.tensors.items() if name not in self.model.head_names}

    def features(self, tensors: Mapping[str, Tensor], validation_alone: bool = False) -> Tensor:
        """Return the features h of the server's samples, float32, shape (n, d).

        Args:
            tensors: An adapter's tensors without the head.
            validation_alone: Whether to return only those of the validation data.
        """
        taken = self._taken(tensors)
        missing = [i for i in range(1 if validation_alone else len(self.parts)) if i not in taken]
        if missing:
            self.model.write(tensors)
            taken |= {i: pooled_features(self.model, self.parts[i], self.bfloat16) for i in missing}
        if validation_alone:
            return taken[0]
        if ALL not in taken:
            taken[ALL] = torch.cat([taken[i] for i in range(len(self.parts))])
        return taken[ALL]

    def _taken(self, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
        values = [tensors[name] for name in sorted(tensors)]
        for before, taken in self.known:
            if same_objects(before, values):
                return taken
        self.known = [*self.known, (values, {})][-len(STEPS) :]
        return self.known[-1][1]

    def begin(self, state: RunState) -> None:
        """Set the state whose head is compensated."""
        if self.state is None or self.state.head_base is not state.head_base:
            self.solved = None
        self.state = state

    def base(self) -> "_Base":
        """Return the features, sums and shrinkage under the adapter of the sums."""
        if self.solved is None:
            self.solved = self._from_state()
        return self.solved

    def _from_state(self) -> "_Base":
        state = self.state
        if state is None:
            raise RuntimeError("expected a call of begin() before drift compensation is used; found no sums")
        h = self.features(state.head_base)
        sums, y = HeadSums(**state.head_sums), self._validation
        found, x = self.solve(sums), _scaled(h[: len(y)])

        def loss(shrinkage: float) -> float:
            W, b = found.at(shrinkage)
            return calibrated(x @ W.T + b, y)[0]

        return _Base(h, sums, min(self.shrinkages, key=loss))

    def __call__(self, adapter: Adapter) -> Tensor:
        """Return −log p of each validation sample under an adapter with the compensated head; float64, shape (n,).

        All are NaN if a feature is not finite.
        """
        if not bool(self._features_of(adapter).isfinite().all()):
            return torch.full(self._validation.shape, math.nan, dtype=torch.float64)
        z, t = self._cross_validated(adapter)
        return cross_entropy(t * z, self._validation, reduction="none")

    def head(self, adapter: Adapter) -> Head | None:
        """Return the compensated head under an adapter, with the drift estimated on all samples.

        None if a feature is not finite.
        """
        if not bool(self._features_of(adapter).isfinite().all()):
            return None
        z, t = self._cross_validated(adapter)
        base = self.base()
        W, b = self.solve(self.sums(adapter)).at(base.shrinkage)
        loss = float(cross_entropy(t * z, self._validation))
        return Head((t * W / math.sqrt(W.shape[1])).float().contiguous(), (t * b).float(), base.shrinkage, t, loss)

    def sums(self, adapter: Adapter) -> HeadSums:
        """Return an estimate of the clients' sums for the features under an adapter."""
        base = self.base()
        return followed(base.sums, self.moments, self._drift(base, self._features_of(adapter)))

    def _features_of(self, adapter: Adapter) -> Tensor:
        return self.features(self.without_head(adapter))

    def _drift(self, base: "_Base", h: Tensor) -> Drift:
        return estimated_drift(_scaled(base.h), _scaled(h))

    def _cross_validated(self, adapter: Adapter) -> tuple[Tensor, float]:
        """Return cross-validated logits of the validation samples, float64, shape (n, C), and the best temperature."""
        base, h = self.base(), self._features_of(adapter)
        if self.last is None or self.last[0] is not base or self.last[1] is not h:
            self.last = (base, h, self._across_folds(base, h))
        return self.last[2]

    def _across_folds(self, base: "_Base", h: Tensor) -> tuple[Tensor, float]:
        before, x, y = _scaled(base.h), _scaled(h), self._validation
        ridge = self._drift(base, h).ridge
        fold = np.empty(len(x), dtype=int)
        fold[self.order] = np.arange(len(x)) % FOLDS
        which = torch.from_numpy(fold)
        z = torch.zeros(len(y), len(base.sums.counts), dtype=torch.float64)
        for f in range(FOLDS):
            kept = which != f
            out = (which == f)[: len(y)]
            if not bool(out.any()):
                continue
            if not bool(kept.any()):
                kept = which == f  # only one sample
            moved = followed(base.sums, self.moments, estimated_drift(before[kept], x[kept], [ridge]))
            W, b = self.solve(moved).at(base.shrinkage)
            z[out] = x[: len(y)][out] @ W.T + b
        return z, calibrated(z, y)[1]

    @property
    def _validation(self) -> Tensor:
        return torch.from_numpy(self.parts[0].labels)


@dataclass(frozen=True)
class _Base:
    """The server's features under an adapter, the clients' sums of features under it, and the best shrinkage."""

    h: Tensor
    sums: HeadSums
    shrinkage: float


def _scaled(h: Tensor) -> Tensor:
    return h.double() / math.sqrt(h.shape[1])
