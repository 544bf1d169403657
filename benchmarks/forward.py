"""Accuracy and costs of training without backward, against backward and the head alone, on the demo task.

    python benchmarks/forward.py [--seed 0] [--rounds 8] [--tangents 2] > benchmarks/results/forward.json

The learning rate of each way of training is that of the best validation accuracy among ``RATES``; the test accuracy is
that of the last round. Batches of 64, since a pass along a direction is dear for few tokens.
"""

import argparse
import sys
import time

import runs

RATES = {"forward": (3e-4, 1e-3, 3e-3), "auto": (1e-3,)}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tangents", type=int, default=2)
    arguments = parser.parse_args()
    T = arguments.rounds
    plain = [f"train.rounds={T}", f"train.evaluate_every={T}", "train.autocast=none", "train.batch_size=64",
             "train.selection=last", "train.server={name: none}"]  # fmt: skip
    rows = [row("head-only", [*plain, "method={name: head-only}"], arguments.seed)]
    for rule, rates in RATES.items():
        for lr in rates:
            how = [f"train.activations={rule}", f"train.tangents={arguments.tangents}", f"train.lr={lr}"]
            rows.append(row(f"{rule}, lr {lr}", [*plain, *how, "method={name: rgd-hla}"], arguments.seed))
    runs.show({"benchmark": "forward", "rounds": T, "tangents": arguments.tangents, "rows": rows})


def row(name: str, overrides: list[str], seed: int) -> dict[str, object]:
    """Run one configuration and return its row."""
    begin = time.process_time()
    _, results, summary = runs.play(overrides, seed)
    clients = [client for result in results for client in result.report.clients]
    found = {
        "name": name,
        "validation": results[-1].validation.accuracy,
        "test": summary["final"],
        "start": summary["start"],
        "peak_bytes": max((client.metrics["peak_bytes"] for client in clients), default=None),
        "saved_bytes": max((client.metrics["saved_bytes"] for client in clients), default=None),
        "cpu_seconds": time.process_time() - begin,
    }
    print(found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
