"""Resident memory of a client in a process of its own, beside its budget and the prediction.

    python benchmarks/resident.py [--model minilm|bert-base|llama] [--threads 1]

Each case is a fresh child process that loads the model, calibrates it (which is how a client learns what steps cost,
and makes the runtime's one-off allocations), and then trains two steps. Its peak is the largest resident memory during
training, above the resident memory before it. Tiers have budgets of a quarter, a half and all of what training every
block takes; ``full`` trains all blocks and keeps all activations; ``lr = 0`` is what the published code calls freezing:
gradients and optimiser for everything, with a learning rate of zero for frozen blocks, on a deep copy of the model.
"""

import argparse
import copy
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch

from fedhello.allocation.geometric import block_probabilities, draw_preference
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import fixed_policies, plan
from fedhello.client.calibration import calibrate
from fedhello.client.memory import RESERVE, ProcessPeak, return_memory_at_once
from fedhello.client.settings import moments
from fedhello.client.training import Assignment, local_training
from fedhello.randomness import generator
from fedhello.runs.summarise import versions
from fedhello.types import Allocation, Budget
from models import MODELS, SETTINGS, texts

SHAPES = {"minilm": (64, 96), "bert-base": (16, 96), "llama": (8, 96)}
SHARES = {"quarter": 0.25, "half": 0.5, "everything": 1.0}


def main() -> None:
    """Read the arguments, run every case in a child, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="minilm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", help="what a child runs")
    arguments = parser.parse_args()
    if arguments.case:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(child(arguments.model, arguments.case)))
        return
    rows = []
    for case in (*SHARES, "full", "lr = 0", "lr = 0, default allocator"):
        command = [sys.executable, __file__, "--model", arguments.model, "--threads", str(arguments.threads)]
        done = subprocess.run([*command, "--case", case], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr, flush=True)
    print(
        json.dumps({"benchmark": "resident", "model": arguments.model, "rows": rows, "versions": versions()}, indent=2)
    )


def child(name: str, case: str) -> dict[str, Any]:
    """Train one case in this process."""
    if case != "lr = 0, default allocator":
        return_memory_at_once()
    samples, tokens = SHAPES[name]
    model, _ = MODELS[name](2, 8)
    L, adapter = model.blocks.count, model.snapshot(share_head=True)
    shape = (samples, tokens)
    for parameter in model.module.parameters():
        parameter.sum()  # weights are read from disk when they are touched; they belong to the loaded model
    costs = replace(calibrate(model), moments=moments(SETTINGS), reserve=RESERVE).at(shape, [shape])
    everything = Allocation(tuple(range(L)), fixed_policies("keep", range(L), L))
    full = needs(costs, everything).memory_bytes
    budget = None
    if case in SHARES:
        budget = int(full * SHARES[case])
        p = block_probabilities("bottleneck", (L // 3, 2 * L // 3, L), L)
        preference = tuple(draw_preference(p, generator(0, "allocation", 0, 0)))
        allocation = plan(Budget(memory=budget), preference, costs, "auto")
    else:
        allocation = everything
    data = texts(2 * samples, tokens)
    settings = replace(SETTINGS, batch_size=samples, measure_memory=False)
    work = Assignment(0, 0, adapter.names(allocation), data, (0, 1, 2, 3, 4), seed=0, policies=allocation.policies)
    with ProcessPeak(model.device) as resident:
        if case.startswith("lr = 0"):
            published_semantics(model, data, samples)
        else:
            local_training(model, work, settings)
    return {
        "case": case,
        "budget_bytes": budget,
        "blocks": allocation.blocks,
        "policies": allocation.policies,
        "predicted_peak_bytes": needs(costs, allocation).peak_bytes,
        "predicted_memory_bytes": needs(costs, allocation).memory_bytes,
        "resident_peak_bytes": resident.peak_bytes,
    }


def published_semantics(model: Any, data: Any, batch_size: int) -> None:
    """Train a deep copy with gradients and optimiser for everything, at a rate of zero: it costs what any rate does."""
    copied = copy.deepcopy(model.module)
    parameters = dict(copied.named_parameters())
    trainable = [p for name, p in parameters.items() if "lora_" in name or "modules_to_save" in name]
    for p in trainable:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 0.0} for p in trainable])
    copied.train()
    for begin in range(0, len(data), batch_size):
        batch = data.batch(range(begin, min(len(data), begin + batch_size)))
        loss = torch.nn.functional.cross_entropy(copied(**batch.inputs).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
