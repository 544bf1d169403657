"""What a step holds and how long it takes, by allocation and activation policy.

    python benchmarks/memory.py [--model minilm|bert-base] [--repeats 5]

Every case is one training step through the library's own local training, from the same values; the cases take turns,
and times are ratios to the first case (all blocks, keep) of the same turn. ``bert-base`` has random weights and
16 × 64 tokens; ``minilm`` has its real weights and 16 headlines.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from fedhello.allocation.bytes import fixed_policies
from fedhello.allocation.geometric import allocate_blocks
from fedhello.client.training import Assignment, local_training
from fedhello.run.summary import versions
from fedhello.types import Allocation
from models import MODELS, SETTINGS

GOALS = {"bottleneck 1/2, recompute-frozen": (0.55, 1.20), "bottleneck 1/4, recompute-frozen": (0.33, 1.30)}
GOALS |= {"all, recompute": (0.20, 1.35), "all, compress": (0.45, 1.25)}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="bert-base")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model, data = MODELS[arguments.model]()
    L = model.blocks.count
    everything, half, quarter = (allocate_blocks("bottleneck", c, L) for c in (L, L // 2, L // 4))
    cases = {
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

    def step(blocks: tuple[int, ...], rule: str, measure: bool) -> dict[str, float]:
        allocation = Allocation(blocks, fixed_policies(rule, blocks, L))
        work = Assignment(0, 0, adapter.names(allocation), data, (0, 1), seed=0, policies=allocation.policies)
        begin = time.perf_counter()
        _, metrics = local_training(model, work, replace(SETTINGS, measure_memory=measure))
        seconds = time.perf_counter() - begin
        model.write(adapter.tensors)
        return metrics | {"seconds": seconds}

    memory = {name: step(*case, measure=True) for name, case in cases.items()}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(arguments.repeats):
        turn = {name: step(*case, measure=False)["seconds"] for name, case in cases.items()}
        for name, seconds in turn.items():
            ratios[name].append(seconds / turn["all, keep"])
    full = memory["all, keep"]
    rows = [
        {
            "case": name,
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
