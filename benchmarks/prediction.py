"""Predicted against measured bytes of training steps: every pattern, policy and two batch shapes.

    python benchmarks/prediction.py [--model minilm|bert-base]

The prediction comes from one calibration per model (its seconds are given); each case is then one measured step through
the library's own local training. ``bert-base`` has random weights.
"""

import argparse
import json
import time
from dataclasses import replace
from typing import get_args

import numpy as np

from fedhello.allocation.geometric import allocate_blocks
from fedhello.client.activations import Rule, choose_policies
from fedhello.client.prediction import calibrate, predict
from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import Examples
from fedhello.run.summary import versions
from fedhello.types import Allocation
from freezing import SETTINGS, bert_base, minilm


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["minilm", "bert-base"], default="minilm")
    model, _ = {"minilm": minilm, "bert-base": bert_base}[parser.parse_args().model]()
    L, adapter = model.blocks.count, model.snapshot(share_head=True)
    begin = time.perf_counter()
    costs = calibrate(model)
    seconds = time.perf_counter() - begin

    allocations = {
        (),
        *(allocate_blocks(p, c, L, start=2) for p in ("bottleneck", "uniform") for c in (1, L // 4, L // 2, L)),
        *(allocate_blocks(p, c, L) for p in ("triangle", "inverted_triangle") for c in (1, L // 2)),
    }
    rows = []
    for samples, tokens in ((4, 20), (16, 64)):
        rng = np.random.default_rng(0)
        data = Examples(tuple(rng.integers(1, 30000, tokens) for _ in range(samples)), np.arange(samples) % 5, pad=0)
        for rule in get_args(Rule):
            for blocks in sorted(allocations):
                work = Assignment(0, 0, adapter.names(Allocation(blocks)), data, (0, 1, 2, 3, 4), seed=0)
                _, found = local_training(model, work, replace(SETTINGS, activations=rule))
                model.write(adapter.tensors)
                predicted = predict(costs, blocks, choose_policies(rule, blocks, L), samples, tokens, state_bytes=0)
                rows.append(
                    {
                        "batch": [samples, tokens],
                        "rule": rule,
                        "blocks": blocks,
                        "saved_bytes": found["saved_bytes"],
                        "peak_bytes": found["peak_bytes"],
                        "saved_error": predicted.saved_bytes / found["saved_bytes"] - 1,
                        "peak_error": predicted.peak_bytes / found["peak_bytes"] - 1,
                    }
                )
    result = {
        "benchmark": "prediction",
        "model": model.source.base_name,
        "calibration_seconds": seconds,
        "cases": len(rows),
        "worst_saved_error": max(abs(row["saved_error"]) for row in rows),
        "goal_saved_error": 0.02,
        "worst_peak_error": max(abs(row["peak_error"]) for row in rows),
        "goal_peak_error": 0.10,
        "rows": rows,
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
