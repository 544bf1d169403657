"""Accuracy of the demo over seeds, partitions, heads and methods.

    python benchmarks/demo_accuracy.py [--seeds 0,1,2] [--only NAME …] > benchmarks/results/demo_accuracy.json

Each row is one configuration; ``mean_last_5`` is the test accuracy averaged over the last five rounds, then over the
seeds. Nothing is chosen on the test set. About a minute per seed and row on two cores.
"""

import argparse
import json
import statistics
import sys

import runs
from fedhello.runs.summarise import versions

IID = "data.partition={kind: iid}"
PLAIN = ["model.head=aggregate", "train.loss=cross_entropy"]
PATTERNS = ("triangle", "inverted_triangle", "bottleneck", "uniform")

ROWS: dict[str, list[str]] = {
    "default (2 of 5 classes)": [],
    "default, IID": [IID],
    "default, Dirichlet 0.1": ["data.partition={kind: dirichlet, alpha: 0.1}"],
    "default, activations compressed": ["train.activations=compress"],
    "batches of 32, fp32": ["train.batch_size=32", "train.autocast=none"],
    "batches of 32, bf16": ["train.batch_size=32", "train.autocast=bfloat16"],
    "head aggregate, loss cross_entropy": PLAIN,
    "head aggregate, loss cross_entropy, IID": [*PLAIN, IID],
    "head aggregate, loss cross_entropy, IID, activations compressed": [*PLAIN, IID, "train.activations=compress"],
    "head aggregate, loss cross_entropy, IID, no frozen dropout": [*PLAIN, IID, "model.frozen_dropout=false"],
    "head aggregate, loss restricted": ["model.head=aggregate"],
    "head prototypes, loss cross_entropy": ["train.loss=cross_entropy"],
    "fim-hla": ["method={name: fim-hla}"],
    **{f"gd-hla {p}": [f"method={{name: gd-hla, pattern: {p}}}"] for p in PATTERNS},
    **{f"rgd-hla {p}": [f"method={{name: rgd-hla, pattern: {p}}}"] for p in PATTERNS},
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    table = []
    for name in arguments.only:
        summaries = [play(ROWS[name], seed) for seed in seeds]
        row = {"name": name, "overrides": ROWS[name]}
        for key in ("final", "mean_last_5", "best_on_validation"):
            values = [summary[key] for summary in summaries]
            spread = statistics.stdev(values) if len(values) > 1 else None
            row[key] = {"mean": statistics.fmean(values), "std": spread, "seeds": values}
        row["validation_last_5"] = statistics.fmean(summary["validation_last_5"] for summary in summaries)
        row["start"] = statistics.fmean(summary["start"] for summary in summaries)
        row["seconds"] = statistics.fmean(summary["wall_seconds"] for summary in summaries)
        table.append(row)
        print(f"{name}: {row['mean_last_5']}", file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "demo_accuracy", "seeds": seeds, "rows": table, "versions": versions()}, indent=2))


def play(overrides: list[str], seed: int) -> dict[str, float]:
    """Run one configuration without a folder and return its summary."""
    _, results, summary = runs.play(overrides, seed)
    last = [result.validation.accuracy for result in results[-5:]]
    return summary | {"validation_last_5": statistics.fmean(last)}


if __name__ == "__main__":
    main()
