"""What a run would do, before it does anything: tiers, uploads, and the labels that each client holds."""

from collections import Counter
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhello.engine.wire import encode_tensors
from fedhello.model.head import is_shared
from fedhello.run.console import human_bytes
from fedhello.run.session import Session
from fedhello.types import Situation

ROUNDS_SHOWN = 1000
"""Draws behind the shown frequencies of a randomised allocation."""


def describe(session: Session) -> dict[str, Any]:
    """Return the plan of a prepared session, JSON-ready.

    ``frequency`` is how often a client of the tier would train each block under the allocation of the first round
    (before any Fisher score), estimated over its clients and ``ROUNDS_SHOWN`` draws; None where that needs scores.
    """
    federation = session.federation
    adapter = session.model.snapshot(share_head=is_shared(session.config.model.head))
    sizes: Counter[int | None] = Counter()
    for name, value in adapter.tensors.items():
        sizes[adapter.block_of[name]] += value.numel() * value.element_size()
    per_block = max(size for block, size in sizes.items() if block is not None)
    tiers = [
        {
            "tier": g,
            "clients": session.tier_of.count(g),
            "blocks": tier.blocks,
            "upload_bytes": tier.blocks * per_block + sizes[None],
            "frequency": _frequency(session, g),
        }
        for g, tier in enumerate(federation.tiers)
    ]
    return {
        "method": session.config.method.name,
        "model": session.model.source.base_name,
        "blocks": federation.blocks,
        "rounds": session.config.train.rounds,
        "clients_per_round": federation.clients_per_round,
        "download_bytes": len(encode_tensors(adapter.tensors)),
        "tiers": tiers,
        "labels": list(session.labels),
        "clients": [
            {"client": k, "tier": session.tier_of[k], "samples": int(row.sum()), "labels": row.tolist()}
            for k, row in enumerate(session.histogram)
        ],
        "server": {
            "validation": len(session.server.validation),
            "test": len(session.server.test),
            "proxy": len(session.server.proxy),
        },
        "notes": list(session.notes),
    }


def show(plan: dict[str, Any], console: Console) -> None:
    """Print a plan for people."""
    console.print(
        f"{plan['method']} on {plan['model']}, {plan['blocks']} blocks: {plan['rounds']} rounds of "
        f"{plan['clients_per_round']} clients; each downloads {human_bytes(plan['download_bytes'])} per round",
        highlight=False,
    )
    tiers = Table("tier", "clients", "blocks", "upload per round", "how often each block (first round)", box=None)
    for tier in plan["tiers"]:
        frequency = " ".join(f"{f:.2f}" for f in tier["frequency"]) if tier["frequency"] else "by Fisher score"
        cells = (tier["tier"], tier["clients"], tier["blocks"], human_bytes(tier["upload_bytes"]), frequency)
        tiers.add_row(*map(str, cells))
    console.print(tiers)
    clients = Table("client", "tier", "samples", *plan["labels"], box=None)
    for client in plan["clients"]:
        row = (client["client"], client["tier"], client["samples"], *client["labels"])
        clients.add_row(*("·" if i > 2 and cell == 0 else str(cell) for i, cell in enumerate(row)))
    console.print(clients)
    server = plan["server"]
    console.print(
        "the server holds {validation} validation, {test} test and {proxy} proxy samples".format(**server),
        highlight=False,
    )
    for note in plan["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)


def _frequency(session: Session, tier: int) -> list[float] | None:
    if session.method.scores_due(0):
        return None
    federation = session.federation
    members = [client for client in federation.clients if client.tier == tier]
    if not members:
        return [0.0] * federation.blocks
    drawn: Counter[int] = Counter()
    for t in range(ROUNDS_SHOWN):
        client = members[t % len(members)]
        another_seed = replace(federation, seed=federation.seed + t)
        drawn.update(session.method.allocate(Situation(client, another_seed, round=0)).blocks)
    return [drawn[block] / ROUNDS_SHOWN for block in range(federation.blocks)]
