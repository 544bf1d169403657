"""Predicted against measured bytes of training steps: allocations × policies × batch shapes × kinds of model.

    python benchmarks/prediction.py [--model minilm|bert-base|vit-b16|llama …]

Per model there are variants: SDPA and eager attention in fp32, and SDPA in bf16 autocast. BERT-base and MiniLM train
with dropout, ViT and Llama without. The prediction comes from one calibration per variant (its seconds are given); each
case is then one measured step through the library's own local training. All but MiniLM have random weights.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

from fedhello.allocation.geometric import allocate_blocks
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import OPTIONS, fixed_policies
from fedhello.client.calibration import calibrate
from fedhello.client.settings import moments
from fedhello.client.training import Assignment, local_training
from fedhello.runs.summarise import versions
from fedhello.types import Allocation
from models import MODELS, SETTINGS, images, texts

RULES = [rule for rule in OPTIONS if not rule.startswith("auto")]
SHAPES = {"minilm": ((4, 20), (16, 64)), "bert-base": ((4, 20), (16, 64)), "llama": ((2, 20), (8, 48))}
IMAGES = ((2, 1), (8, 1))
VARIANTS = {
    "sdpa, fp32": ({"attn_implementation": "sdpa"}, "none"),
    "eager, fp32": ({"attn_implementation": "eager"}, "none"),
    "sdpa, bf16": ({"attn_implementation": "sdpa"}, "bfloat16"),
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    rows, calibrations = [], {}
    for name in arguments.model:
        for variant, (config, autocast) in VARIANTS.items():
            if name == "minilm" and "eager" in variant:
                continue  # its attention is chosen by the configuration of its weights
            found, seconds = compare(name, variant, {} if name == "minilm" else config, autocast)
            rows += found
            calibrations[f"{name}, {variant}"] = seconds
            worst = {key: max(abs(row[key]) for row in found) for key in ("saved_error", "peak_error")}
            print(name, variant, worst, file=sys.stderr, flush=True)
    result = {
        "benchmark": "prediction",
        "calibration_seconds": calibrations,
        "cases": len(rows),
        "worst_saved_error": max(abs(row["saved_error"]) for row in rows),
        "goal_saved_error": 0.02,
        "worst_peak_error": max(abs(row["peak_error"]) for row in rows),
        "goal_peak_error": 0.10,
        "rows": rows,
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))


def compare(name: str, variant: str, config: dict[str, Any], autocast: str) -> tuple[list[dict[str, Any]], float]:
    """Compare every case of one model, and time its calibration."""
    model, _ = MODELS[name](2, 8, **config)
    L, adapter = model.blocks.count, model.snapshot(share_head=True)
    begin = time.perf_counter()
    costs = calibrate(model, autocast=autocast == "bfloat16")
    seconds = time.perf_counter() - begin
    allocations = {
        (),
        *(allocate_blocks(p, c, L, start=2) for p in ("bottleneck", "uniform") for c in (1, L // 4, L // 2, L)),
        *(allocate_blocks(p, c, L) for p in ("triangle", "inverted_triangle") for c in (2, L // 2)),
    }
    rows = []
    for samples, tokens in SHAPES.get(name, IMAGES):
        data = images(samples) if name == "vit-b16" else texts(samples, tokens)
        at = replace(costs, moments=moments(SETTINGS)).at((samples, tokens))
        for rule in RULES:
            for blocks in sorted(allocations):
                allocation = Allocation(blocks, fixed_policies(rule, blocks, L))
                names = adapter.names(allocation)
                work = Assignment(0, 0, names, data, (0, 1, 2, 3, 4), seed=0, policies=allocation.policies)
                _, found = local_training(model, work, replace(SETTINGS, autocast=autocast))
                model.write(adapter.tensors)
                predicted = needs(at, allocation, first_step=True)
                rows.append(
                    {
                        "model": name,
                        "variant": variant,
                        "batch": [samples, tokens],
                        "rule": rule,
                        "blocks": blocks,
                        "saved_bytes": found["saved_bytes"],
                        "peak_bytes": found["peak_bytes"],
                        "saved_error": predicted.saved_bytes / found["saved_bytes"] - 1,
                        "peak_error": predicted.peak_bytes / found["peak_bytes"] - 1,
                    }
                )
    return rows, seconds


if __name__ == "__main__":
    main()
