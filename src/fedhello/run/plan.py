"""What a run would do, before it does anything: tiers, uploads, and the labels that each client holds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhello.client.activations import choose_policies
from fedhello.client.prediction import predict
from fedhello.client.training import state_bytes
from fedhello.engine.wire import encode_tensors
from fedhello.model.head import is_shared
from fedhello.run.console import human_bytes
from fedhello.run.session import Session
from fedhello.types import Situation

ROUNDS_SHOWN = 1000
"""Draws behind the shown frequencies of a randomised allocation."""


def describe(session: Session) -> dict[str, Any]:
    """Return the plan of a prepared session, JSON-ready.

    ``predicted_peak_bytes`` is for the tier's widest batch, above the loaded model. ``frequency`` is how often a client
    of the tier would train each block under the allocation of the first round (before any Fisher score), estimated
    over its clients and ``ROUNDS_SHOWN`` draws; None where that needs scores.
    """
    federation = session.federation
    adapter = session.model.snapshot(share_head=is_shared(session.config.model.head))
    sizes: Counter[int | None] = Counter()
    for name, value in adapter.tensors.items():
        sizes[adapter.block_of[name]] += value.numel() * value.element_size()
    per_block = max(size for block, size in sizes.items() if block is not None)
    draws = [_draws(session, g) for g in range(len(federation.tiers))]
    tiers = [
        {
            "tier": g,
            "clients": session.tier_of.count(g),
            "blocks": tier.blocks,
            "upload_bytes": tier.blocks * per_block + sizes[None],
            "frequency": _frequency(draws[g], federation.blocks),
            "predicted_peak_bytes": _predicted_peak(session, g, draws[g], sizes),
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
    columns = ("tier", "clients", "blocks", "peak at most", "upload per round", "how often each block (first round)")
    tiers = Table(*columns, box=None)
    for tier in plan["tiers"]:
        peak = human_bytes(tier["predicted_peak_bytes"])
        frequency = " ".join(f"{f:.2f}" for f in tier["frequency"]) if tier["frequency"] else "by Fisher score"
        cells = (tier["tier"], tier["clients"], tier["blocks"], peak, human_bytes(tier["upload_bytes"]), frequency)
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


def _draws(session: Session, tier: int) -> list[tuple[int, ...]] | None:
    """Return what clients of a tier would train in ``ROUNDS_SHOWN`` first rounds; None where that needs scores."""
    if session.method.scores_due(0):
        return None
    federation = session.federation
    members = [client for client in federation.clients if client.tier == tier]
    if not members:
        return []
    return [
        session.method.allocate(
            Situation(members[t % len(members)], replace(federation, seed=federation.seed + t), round=0)
        ).blocks
        for t in range(ROUNDS_SHOWN)
    ]


def _frequency(draws: list[tuple[int, ...]] | None, blocks: int) -> list[float] | None:
    if draws is None:
        return None
    counts = Counter(block for draw in draws for block in draw)
    return [counts[block] / max(1, len(draws)) for block in range(blocks)]


def _predicted_peak(
    session: Session, tier: int, draws: list[tuple[int, ...]] | None, sizes: Mapping[int | None, int]
) -> int | None:
    """Predict the most that the tier's draws need on its widest batch; without draws, with its lowest blocks."""
    engine, settings, L = session.engine, session.engine.settings, session.federation.blocks
    if engine.costs is None or draws == []:
        return None
    data = [engine.data[k] for k, g in enumerate(session.tier_of) if g == tier]
    samples = max(min(settings.batch_size, len(examples)) for examples in data)
    tokens = max(int(examples.lengths().max()) for examples in data)
    peaks = []
    for blocks in set(draws or [tuple(range(session.federation.tiers[tier].blocks))]):
        state = state_bytes(sum(sizes[block] for block in (*blocks, None)), settings)
        policies = choose_policies(settings.activations, blocks, L)
        peaks.append(predict(engine.costs, blocks, policies, samples, tokens, state).peak_bytes)
    return max(peaks)
