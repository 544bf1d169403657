"""Accuracy at equal memory budgets: the planner's methods, FedQuad, Fed-pilot and the head alone; and closed blocks.

    python benchmarks/rivals.py [--seeds 0,1] [--rounds 8] [--only NAME …] > benchmarks/results/rivals.json

A third of the demo's clients each may take 0.35, 0.6 and 1 times the memory of a step that trains all blocks and
keeps all activations, plus the reserve; classes are spread evenly, and the head starts from nothing. Every row meets
the same budgets; its largest measured peak is given as a share of them, and what it took in CPU seconds. Rows with
``cache`` let clients keep what stands below their lowest trained block. Accuracy is that of the last round, on the
test set, from which nothing is chosen.
"""

import argparse
import statistics
import sys
import time

import runs
from fedhello.allocation.needs import needs
from fedhello.client.memory import RESERVE
from fedhello.config.load import load_config
from fedhello.setup.prepare import prepare
from fedhello.types import Allocation

SHARES = (0.35, 0.6, 1.0)

ROWS: dict[str, list[str]] = {
    "head-only": ["method={name: head-only}"],
    "fed-hello, auto": ["method={name: fed-hello, warmup: 3, refresh: 3}"],
    "fed-hello, auto-compress": [
        "method={name: fed-hello, warmup: 3, refresh: 3}", "train.activations=auto-compress",
    ],
    "fedquad": ["method={name: fedquad}", "train.activations=auto-compress"],
    "fed-pilot": ["method={name: fed-pilot, refresh: 3}", "train.activations=keep"],
    "gd-hla, cache": ["method={name: gd-hla}", "model.frozen_dropout=false"],
    "gd-hla, cache, freeze_from_below 1": [
        "method={name: gd-hla, freeze_from_below: 1}", "model.frozen_dropout=false",
    ],
}  # fmt: skip
CACHE = "64 MB"


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    T = arguments.rounds
    # A head that starts from nothing: a solved one is hard to surpass. The last model, since nothing is selected.
    plain = [
        f"train.rounds={T}", f"train.evaluate_every={T}", "train.autocast=none", "train.selection=last",
        "model.head=aggregate", "train.loss=cross_entropy", "data.partition={kind: iid}",
    ]  # fmt: skip
    full = all_blocks(plain)
    rows = []
    for name in arguments.only:
        found = [played([*plain, *tiers(full, "cache" in name), *ROWS[name]], seed) for seed in seeds]
        accuracy = [one["accuracy"] for one in found]
        rows.append({"name": name, "accuracy_mean": statistics.fmean(accuracy), "seeds": found})
        print(name, rows[-1], file=sys.stderr, flush=True)
    runs.show({"benchmark": "rivals", "rounds": arguments.rounds, "full_peak_bytes": full, "rows": rows})


def all_blocks(plain: list[str]) -> int:
    """Return the peak bytes of a step that trains all blocks and keeps all activations."""
    session = prepare(load_config(None, [*plain, "train.activations=keep", "clients.tiers=[{share: 1, memory: 4 GB}]"]))
    costs = session.federation.costs[0]
    return needs(costs, Allocation(tuple(range(session.federation.num_blocks)))).peak_bytes


def tiers(full: int, cache: bool) -> list[str]:
    """Return the budgets."""
    more = f", cache: {CACHE}" if cache else ""
    budgets = (f"{{share: {1 / 3:.7f}, memory: {int(share * full + RESERVE) // 1000} kB{more}}}" for share in SHARES)
    return [f"clients.tiers=[{', '.join(budgets)}]"]


def played(overrides: list[str], seed: int) -> dict[str, object]:
    """Run one configuration and return what it reached and took."""
    begin = time.process_time()
    session, results, summary = runs.play(overrides, seed)
    clients = [client for result in results for client in result.report.clients]
    peaks = [
        client.metrics["peak_bytes"] / ((session.federation.tiers[client.tier].memory or 0) - RESERVE)
        for client in clients
        if "peak_bytes" in client.metrics
    ]
    return {
        "seed": seed,
        "accuracy": summary["final"],
        "start": summary["start"],
        "peak_of_budget": max(peaks, default=None),
        "blocks_a_client": statistics.fmean(len(client.blocks) for client in clients) if clients else 0,
        "training_seconds": sum(client.metrics["seconds"] for client in clients),
        "cpu_seconds": time.process_time() - begin,
        "upload_bytes": sum(client.bytes_up for client in clients),
    }


if __name__ == "__main__":
    main()
