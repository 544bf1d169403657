"""Accuracy and costs of training without backward, against backward and the head alone, on the demo task.

    python benchmarks/forward.py [--seed 0] [--rounds 8] [--tangents 2] > benchmarks/results/forward.json
    python benchmarks/forward.py --memory bert-base|vit-b16 [--tangents 4] > benchmarks/results/forward_MODEL.json

The learning rate of each way of training is that of the best validation accuracy among ``RATES``; the test accuracy
is that of the last round. The head starts from nothing. Clients train the last block, and keep what stands below it,
so that passes are short: with more blocks an estimate is worse, by their number, and takes longer. Batches are of 64,
since a pass along a direction is dear for few tokens. ``--memory`` measures single steps instead: by backward,
without it, of the head alone, and by backward on a quarter of the batch, recomputed.
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

import runs
from fedhello.allocation.planner import fixed_policies
from fedhello.client.training import Assignment, local_training
from fedhello.costs import ActivationRule
from fedhello.data.batches import Samples
from fedhello.types import Allocation
from models import MODELS, SETTINGS

RATES = (1e-3, 3e-3, 1e-2)
WAYS = {
    "head-only": "method={name: head-only}",
    "forward": "method={name: gd-hla, pattern: inverted_triangle}",
    "auto": "method={name: gd-hla, pattern: inverted_triangle}",
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tangents", type=int, default=2)
    parser.add_argument("--memory", choices=["bert-base", "vit-b16"])
    arguments = parser.parse_args()
    if arguments.memory:
        runs.show(
            {"benchmark": "forward", "tangents": arguments.tangents, **steps(arguments.memory, arguments.tangents)}
        )
        return
    T = arguments.rounds
    plain = [
        f"train.rounds={T}", f"train.evaluate_every={T}", "train.autocast=none", "train.batch_size=64",
        "train.selection=last", "model.head=aggregate", "train.loss=cross_entropy", "data.partition={kind: iid}",
        "clients.tiers=[{share: 1, blocks: 1, cache: 64 MB}]", "model.frozen_dropout=false",
    ]  # fmt: skip
    rows = []
    for way, method in WAYS.items():
        rule = "auto" if way == "head-only" else way
        for lr in RATES:
            how = [f"train.activations={rule}", f"train.tangents={arguments.tangents}", f"train.lr={lr}", method]
            rows.append(row(f"{way}, lr {lr}", [*plain, *how], arguments.seed))
    runs.show({"benchmark": "forward", "rounds": T, "tangents": arguments.tangents, "rows": rows})


def steps(name: str, tangents: int) -> dict[str, object]:
    """Return what a step takes in each way."""
    model, data = MODELS[name]()
    L, adapter = model.blocks.count, model.snapshot(share_head=True)
    everything, quarter = tuple(range(L)), np.arange(len(data) // 4)
    ways: dict[str, tuple[tuple[int, ...], ActivationRule, Samples]] = {
        "keep": (everything, "keep", data),
        "forward": (everything, "forward", data),
        "forward, the last block": ((L - 1,), "forward", data),
        "head only": ((), "keep", data),
        "recompute, a quarter of the batch": (everything, "recompute", data.subset(quarter)),
    }
    rows: list[dict[str, object]] = []
    for way, (blocks, rule, samples) in ways.items():
        allocation = Allocation(blocks, fixed_policies(rule, blocks, L))
        work = Assignment(0, 0, adapter.names(allocation), samples, (0, 1), seed=0, policies=allocation.policies)
        settings = replace(SETTINGS, tangents=tangents if rule == "forward" else 0)
        _, found = local_training(model, work, settings)
        begin = time.process_time()
        local_training(model, work, replace(settings, measure_memory=False))
        took = {"name": way, "cpu_seconds": time.process_time() - begin}
        rows.append(took | {key: found[key] for key in ("peak_bytes", "saved_bytes")})
        model.write(adapter.tensors)
        print(rows[-1], file=sys.stderr, flush=True)
    return {"model": model.source.base_name, "rows": rows}


def row(name: str, overrides: list[str], seed: int) -> dict[str, object]:
    """Run one configuration and return its row."""
    begin = time.process_time()
    _, results, summary = runs.play(overrides, seed)
    clients = [client for result in results for client in result.report.clients]
    found = {
        "name": name,
        "validation": results[-1].validation.accuracy,
        "test": summary["final"],
        "start": summary["start"],
        "peak_bytes": max((client.metrics["peak_bytes"] for client in clients), default=None),
        "saved_bytes": max((client.metrics["saved_bytes"] for client in clients), default=None),
        "cpu_seconds": time.process_time() - begin,
    }
    print(found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
