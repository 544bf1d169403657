"""A federation whose tiers state bytes, and costs in which a rank is worth counting."""

from collections.abc import Callable, Sequence

import pytest

from fedhello.costs import ActivationRule, Costs
from fedhello.types import Budget, Client, Federation

ROLES = ("lowest", "trained", "frozen")
SAVED = {"keep": (70, 100, 80), "recompute": (8, 8, 8), "compress": (20, 30, 24)}
TRANSIENT = {"keep": 15, "recompute": 95, "compress": 60}
FLOPS = {"keep": (6, 12, 10), "recompute": (15, 21, 19), "compress": (7, 13, 11)}


def by_kind(table: dict) -> dict:
    return {(p, role): v[i] if isinstance(v, tuple) else v for p, v in table.items() for i, role in enumerate(ROLES)}


@pytest.fixture
def byte_world() -> Callable[..., Federation]:
    """One client per budget, each its own tier; a rank takes 5 bytes per block, and 3 of them on the wire."""

    def build(budgets: Sequence[Budget], blocks: int = 3, R: int = 8, rule: ActivationRule = "auto") -> Federation:
        costs = Costs(
            saved=by_kind(SAVED), transient=by_kind(TRANSIENT), flops=by_kind(FLOPS), outside=5, outside_head_only=3,
            head_only_peak=40, flops_outside=50, block_bytes=(5 * R,) * blocks, reserve=4, head_bytes=1,
            head_shared=True, moments=2, block_upload=(5 * R + 3,) * blocks, fixed_upload=4, rank=R,
        )  # fmt: skip
        clients = tuple(Client(k, k, budget, samples=1 + k) for k, budget in enumerate(budgets))
        return Federation(
            clients, tuple(budgets), blocks, len(clients), 0, rule, (costs,) * len(clients), rank=R, scale=1.0
        )

    return build
