"""What secure sums cost beside plain ones, in one run: accuracy, bytes, CPU seconds.

    python benchmarks/secure.py --seeds 0,1,2 --rounds 10 --more train.server.name=none train.selection=last

Each seed is run plain, secure with whole vectors and with cohorts, and both with a third of the invited clients lost at
random steps; what is printed is JSON with the test accuracy (last, and the mean of the last five rounds), the share of
rounds in which something was withheld, and ratios to plain (``secure`` is the one of whole vectors) of the bytes that
clients sent and received and of the CPU seconds of the rounds, medians over seeds. Runs alternate, so that what else
the machine does falls on all alike.
"""

import argparse
import json
import time
from statistics import fmean, median
from typing import Any

import fedhello as fh

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "secure": {"privacy.secure": True},
    "secure, cohorts": {"privacy.secure": True, "privacy.cohorts": 3},
    "secure, a third lost": {"privacy.secure": True, "clients.dropout": 0.33, "train.retries": 50},
    "secure, cohorts, a third lost": {
        "privacy.secure": True,
        "privacy.cohorts": 3,
        "clients.dropout": 0.33,
        "train.retries": 50,
    },
}


def played(words: dict[str, Any]) -> dict[str, float]:
    """Play a run without writing it, and return its figures."""
    session = fh.prepare(None, words)
    begun = fh.start(session)
    begin = time.process_time()
    records = [record for _, record in fh.rounds(session, begun.state)]
    seconds = time.process_time() - begin
    committed = [record for record in records if record.report.failed is None]
    accuracies = [record.test.accuracy for record in committed if record.test is not None]
    clients = [client for record in records for client in record.report.clients]
    return {
        "start": begun.test.accuracy,
        "last": accuracies[-1],
        "mean_last_5": fmean(accuracies[-5:]),
        "bytes_up": sum(client.bytes_up for client in clients) / len(clients),
        "bytes_down": sum(client.bytes_down for client in clients) / len(clients),
        "head_bytes_up": 0 if begun.head is None else begun.head.bytes_up,
        "cpu_seconds": seconds / len(committed),
        "failed_attempts": len(records) - len(committed),
        "withheld": sum("withheld" in " ".join(r.report.flags) for r in committed) / len(committed),
        "updates_per_round": len(clients) / len(committed),
    }


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--per-round", type=int, default=6)
    parser.add_argument("--more", nargs="*", default=[])
    asked = parser.parse_args()
    more = dict(word.split("=", 1) for word in asked.more)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for seed in map(int, asked.seeds.split(",")):
        for kind, words in KINDS.items():
            shared = {"run.seed": seed, "train.rounds": asked.rounds, "train.clients_per_round": asked.per_round}
            found[kind].append(played(shared | more | words))
    rows = {kind: {name: fmean(run[name] for run in runs) for name in runs[0]} for kind, runs in found.items()}
    ratios = {
        kind: {
            name: median(a[name] / b[name] for a, b in zip(runs, found["plain"], strict=True))
            for name in ("bytes_up", "bytes_down", "head_bytes_up", "cpu_seconds")
        }
        for kind, runs in found.items()
    }
    print(json.dumps({"config": vars(asked), "means": rows, "ratios to plain": ratios}, indent=1))


if __name__ == "__main__":
    main()
