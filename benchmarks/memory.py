"""What a step holds and how long it takes, by allocation and activation policy.

    python benchmarks/memory.py [--model minilm|bert-base|vit-b16|llama] [--repeats 5]

Cases with a rule apply it to every block; cases ``within`` a share of the memory of "all, keep" leave the policies of
the same blocks to the planner (``auto-compress``), or say that no policies fit. Every case is one training step through
the library's own local training, from the same values; the cases take turns, and times are ratios to the first case
(all blocks, keep) of the same turn. ``minilm`` has its real weights and 16 headlines, the others have random weights:
16 × 64 tokens for ``bert-base``, 8 images for ``vit-b16``, 8 × 48 tokens for ``llama``.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace

import torch

from fedhello.allocation.geometric import allocate_blocks
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import fixed_policies, plan
from fedhello.client.calibration import calibrate
from fedhello.client.training import Assignment, local_training
from fedhello.costs import ActivationRule
from fedhello.runs.summarise import versions
from fedhello.types import Allocation, Budget
from models import MODELS, SETTINGS

GOALS = {
    "bottleneck 1/2, recompute-frozen": (0.55, 1.20),
    "bottleneck 1/2, within 0.55": (0.55, 1.20),
    "bottleneck 1/4, recompute-frozen": (0.33, 1.30),
    "bottleneck 1/4, within 0.33": (0.33, 1.30),
    "all, recompute": (0.20, 1.35),
    "all, within 0.20": (0.20, 1.35),
    "all, compress": (0.20, 1.15),
    "bottleneck 1/2, compress": (0.60, 1.05),
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="bert-base")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model, data = MODELS[arguments.model]()
    L = model.blocks.count
    everything, half, quarter = (allocate_blocks("bottleneck", c, L) for c in (L, L // 2, L // 4))
    rules: dict[str, tuple[tuple[int, ...], ActivationRule]] = {
        "all, keep": (everything, "keep"),
        "all, recompute": (everything, "recompute"),
        "all, compress": (everything, "compress"),
        "bottleneck 1/2, keep": (half, "keep"),
        "bottleneck 1/2, recompute-frozen": (half, "recompute-frozen"),
        "bottleneck 1/2, compress": (half, "compress"),
        "bottleneck 1/4, keep": (quarter, "keep"),
        "bottleneck 1/4, recompute-frozen": (quarter, "recompute-frozen"),
        "inverted 1/2, keep": (allocate_blocks("inverted_triangle", L // 2, L), "keep"),
        "head only": ((), "keep"),
    }
    adapter = model.snapshot(share_head=True)
    cases = {name: Allocation(blocks, fixed_policies(rule, blocks, L)) for name, (blocks, rule) in rules.items()}
    shape = (len(data), int(data.lengths().max()))
    costs = calibrate(model).at(shape, batches=[shape])
    for name, blocks, share in (
        ("bottleneck 1/2", half, 0.55),
        ("bottleneck 1/4", quarter, 0.33),
        ("all", everything, 0.20),
    ):
        # A thousandth below, for what prediction is off by.
        budget = int(0.999 * share * needs(costs, cases["all, keep"]).peak_bytes)
        planned = plan(Budget(memory=budget), tuple(float(l in blocks) for l in range(L)), costs, "auto-compress")
        if planned.blocks == blocks:
            cases[f"{name}, within {share:.2f}"] = planned
        else:
            print(f"no policies let {name} train within {share:.2f}", file=sys.stderr)

    def step(allocation: Allocation, measure: bool) -> dict[str, float]:
        work = Assignment(0, 0, adapter.names(allocation), data, (0, 1), seed=0, policies=allocation.policies)
        begin = time.perf_counter()
        _, metrics = local_training(model, work, replace(SETTINGS, measure_memory=measure))
        seconds = time.perf_counter() - begin
        model.write(adapter.tensors)
        return metrics | {"seconds": seconds}

    memory = {name: step(case, measure=True) for name, case in cases.items()}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(arguments.repeats):
        turn = {name: step(case, measure=False)["seconds"] for name, case in cases.items()}
        for name, seconds in turn.items():
            ratios[name].append(seconds / turn["all, keep"])
    full = memory["all, keep"]
    rows = [
        {
            "case": name,
            "policies": dict(Counter(cases[name].policies)),
            "saved_bytes": memory[name]["saved_bytes"],
            "peak_bytes": memory[name]["peak_bytes"],
            "saved_ratio": memory[name]["saved_bytes"] / full["saved_bytes"],
            "peak_ratio": memory[name]["peak_bytes"] / full["peak_bytes"],
            "time_ratio": statistics.median(ratios[name]),
            "goal_memory_and_time": GOALS.get(name),
        }
        for name in cases
    ]
    result = {"benchmark": "memory", "model": model.source.base_name, "blocks": L, "rows": rows}
    print(json.dumps(result | {"threads": torch.get_num_threads(), "versions": versions()}, indent=2))


if __name__ == "__main__":
    main()
