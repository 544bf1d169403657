"""A round as an aggregator sees it: two modules of unlike shapes and a head, clients of any ranks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fedhello.factors import merged_factors
from fedhello.strategy import AggregationContext, AggregationResult
from fedhello.types import LORA_A, LORA_B, Adapter, Allocation, Budget, Client, Federation, Update

MODULES = {"layer.0.q": (5, 7), "layer.1.v": (8, 6)}
"""(d_out, d_in) of each."""

SAMPLES = (3, 1, 7, 2, 5)


@dataclass(frozen=True)
class Round:
    """A context and the updates of its round; what they mean, in numpy and float64."""

    context: AggregationContext
    updates: list[Update]

    def played(
        self, aggregate: Callable[..., AggregationResult], updates: Iterable[Update] | None = None, **options
    ) -> AggregationResult:
        return aggregate(self.context, iter(self.updates if updates is None else updates), **options)

    def factors(self, u: Update | Adapter, module: str) -> tuple[np.ndarray, np.ndarray]:
        """A and B."""
        return tuple(u.tensors[module + end].double().numpy() for end in (LORA_A, LORA_B))

    def dense(self, adapter: Adapter, module: str) -> np.ndarray:
        """s B A, and what is merged."""
        A, B = self.factors(adapter, module)
        whole = self.context.federation.scale * B @ A
        Q, P = merged_factors(adapter, module)
        return whole + Q.double().numpy() @ P.double().numpy()

    def mean(self, name: str) -> np.ndarray:
        """Σ n_k x_k / Σ n_k of a tensor that all hold alike."""
        total = sum(u.samples for u in self.updates)
        return sum(u.samples / total * u.tensors[name].double().numpy() for u in self.updates)

    def mean_product(self, module: str) -> np.ndarray:
        """Σ w_k B_k A_k."""
        total, found = sum(u.samples for u in self.updates), 0.0
        for u in self.updates:
            A, B = self.factors(u, module)
            found = found + u.samples / total * B @ A
        return found


@pytest.fixture
def a_round() -> Callable[..., Round]:
    """A round of one client per rank given, each in a tier of its own, with random factors of unlike sizes."""

    def build(
        ranks: Sequence[int],
        R: int = 4,
        components: Sequence[Sequence[int]] = (),
        tiers: Sequence[int | None] = (),
        fresh: bool = False,
        seed: int = 0,
    ) -> Round:
        rng = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=rng)

        def values(r: int) -> dict[str, torch.Tensor]:
            found = {"head.weight": random(3)}
            for module, (d_out, d_in) in MODULES.items():
                found |= {module + LORA_A: random(r, d_in), module + LORA_B: random(d_out, r)}
            return found

        start = values(R)
        if fresh:
            start |= {name: torch.zeros_like(value) for name, value in start.items() if name.endswith(LORA_B)}
        block_of = {name: None if name.startswith("head") else int(name.split(".")[1]) for name in start}
        budgets = tuple(Budget(rank=r) for r in (*ranks, *tiers))
        clients = tuple(Client(k, k, budget, SAMPLES[k % 5]) for k, budget in enumerate(budgets))
        world = Federation(clients, budgets, len(MODULES), len(ranks), seed=3, rank=R, scale=0.5)
        held = components or [()] * len(ranks)
        allocations = {k: Allocation((0, 1), ranks=(r, r), components=tuple(held[k])) for k, r in enumerate(ranks)}
        updates = [Update(k, 2, clients[k].samples, values(r)) for k, r in enumerate(ranks)]
        return Round(AggregationContext(Adapter(start, block_of), world, 2, allocations), updates)

    return build
