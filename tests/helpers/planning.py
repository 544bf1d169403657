"""Costs that are easy to add up by hand, federations of them, and every allocation there is."""

import itertools

from fedhello.allocation.planner import OPTIONS
from fedhello.costs import Costs
from fedhello.types import Allocation, Budget, Client, Federation

ROLES = ("lowest", "trained", "frozen")


SAVED = {
    "keep": {"lowest": 70, "trained": 100, "frozen": 80},
    "recompute": dict.fromkeys(ROLES, 8),
    "compress": {"lowest": 20, "trained": 30, "frozen": 24},
    "forward": dict.fromkeys(ROLES, 0),
}


TRANSIENT = {"keep": 15, "recompute": 95, "compress": 60, "forward": 33}


AGAIN = {"keep": 0, "recompute": 9, "compress": 1, "forward": 20}


BACKWARD = {"lowest": 6, "trained": 12, "frozen": 10}


def costs(blocks, **changed):
    kinds = [(policy, role) for policy in SAVED for role in ROLES]
    values = {
        "saved": {(p, r): SAVED[p][r] for p, r in kinds},
        "transient": {(p, r): TRANSIENT[p] for p, r in kinds},
        "flops": {(p, r): BACKWARD[r] + AGAIN[p] for p, r in kinds},
        "outside": 5, "outside_head_only": 3, "head_only_peak": 40, "flops_outside": 50,
        "block_bytes": (2,) * blocks, "reserve": 0, "head_bytes": 1, "head_shared": True, "moments": 2,
        "block_upload": (3,) * blocks, "fixed_upload": 4,
    }  # fmt: skip
    return Costs(**values | changed)


def every_allocation(v, rule, can_train_head):
    L = len(v)
    for n in range(L + 1):
        for S in itertools.combinations(range(L), n):
            if any(v[l] <= 0 for l in S) or (not S and not can_train_head):
                continue
            lowest = min(S, default=L)
            choices = [("keep",)] * lowest
            choices += [OPTIONS[rule]["trained" if l in S else "frozen"] for l in range(lowest, L)]
            for policies in itertools.product(*choices):
                yield Allocation(S, policies)


def byte_federation(memories, blocks=6, rule="auto", **more):
    tiers = tuple(Budget(memory=m, **more) for m in memories)
    clients = tuple(Client(k, k, tier, samples=1) for k, tier in enumerate(tiers))
    c = costs(blocks)
    return Federation(clients, tiers, blocks, len(clients), 0, rule, (c,) * len(tiers))
