"""What a client saves that keeps the activations below its lowest trained block: CPU seconds of a round, and bytes.

    OMP_NUM_THREADS=1 python benchmarks/cache.py [--repeats 5] [--epochs 2]

MiniLM with its real weights on demo headlines, and BERT-base's shape (12 blocks, random weights) on texts of 32 tokens;
batches of 16. Only the last blocks train, or the head alone, and there is no dropout below them
(``model.frozen_dropout: false``). In each turn, one after the other in this process:

    plain    a round whose steps run all blocks
    first    a round that computes the activations in a pass of its own, as after every change of a weight below
    next     a round that finds them, as while nothing below changes

Ratios are of one turn, and the median of the turns is given. ``rounds_5`` is a first and four next rounds. Differences
to the plain round are of rounding alone, and relative: of the loss, and of the trained tensors after the round.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedhello.client.boundary import BoundaryCache
from fedhello.client.training import Assignment, local_training
from fedhello.config.load import load_config
from fedhello.data.batches import Samples
from fedhello.model.adapter import LoraModel
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare
from fedhello.types import Allocation
from models import SETTINGS, bert_base, texts

GOALS = {("minilm", 1): 3.0, ("minilm", 2): 1.8, ("bert-base shape", 3): 2.3}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for name, (model, data, counts) in cases().items():
        model.frozen_dropout = False
        for autocast in ("none", "bfloat16"):
            for count in counts:
                row = {"model": name, "num_blocks": model.blocks.count, "trained": count, "autocast": autocast}
                rows.append(row | compare(model, data, count, autocast, arguments))
                rows[-1]["goal_next"] = GOALS.get((name, count))
                print(json.dumps(rows[-1]), flush=True, file=sys.stderr)
    facts = {"threads": torch.get_num_threads(), "arguments": vars(arguments), "versions": versions()}
    print(json.dumps({"benchmark": "cache", "rows": rows, **facts}, indent=2))


def cases() -> dict[str, tuple[LoraModel, Samples, tuple[int, ...]]]:
    """Return models, each with samples of a client and how many blocks train."""
    session = prepare(load_config(None, ["train.measure_memory=false"]))
    everyone = session.server.test
    headlines = everyone.subset(np.random.default_rng(0).choice(len(everyone), 96, replace=False))
    shape, _ = bert_base(2, 8)
    return {
        "minilm": (session.model, headlines, (0, 1, 2, 3)),
        "bert-base shape": (shape, texts(32, 32), (0, 1, 3, 6)),
    }


def compare(
    model: LoraModel, data: Samples, count: int, autocast: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return the ratios of one case."""
    L, held = model.blocks.count, BoundaryCache()
    blocks = tuple(range(L - count, L))
    settings = replace(SETTINGS, epochs=arguments.epochs, batch_size=16, autocast=autocast, measure_memory=False)
    adapter = model.snapshot(share_head=True)

    def round_of(turn: int, boundary: BoundaryCache | None) -> tuple[float, dict[str, Tensor], Mapping[str, float]]:
        names = adapter.names(Allocation(blocks))
        work = Assignment(0, turn, names, data, (0, 1, 2, 3, 4), seed=0, boundary=boundary, cache=10**12)
        begin = time.process_time()
        values, metrics = local_training(model, work, settings)
        seconds = time.process_time() - begin
        model.write(adapter.tensors)
        return seconds, values, metrics

    found: dict[str, list[float]] = {"plain": [], "first": [], "next": []}
    losses, tensors, same = [], [], []
    for turn in range(arguments.repeats + 1):
        plain = round_of(turn, None)
        data = data.subset(np.arange(len(data)))  # another object, for which nothing is kept
        first, again = round_of(turn, held), round_of(turn, held)
        if not turn:  # warms up, tries the model, and computes the digests of its frozen weights
            continue
        for name, (seconds, *_) in zip(found, (plain, first, again), strict=True):
            found[name].append(seconds)
        losses.append(abs(again[2]["loss"] / plain[2]["loss"] - 1))
        tensors.append(max(float((v - again[1][n]).norm() / v.norm()) for n, v in plain[1].items()))
        same.append(all(torch.equal(v, again[1][n]) for n, v in first[1].items()))
    pairs = list(zip(*found.values(), strict=True))
    return {
        "plain_cpu_seconds": statistics.median(found["plain"]),
        "first": statistics.median(p / f for p, f, _ in pairs),
        "next": statistics.median(p / n for p, _, n in pairs),
        "rounds_5": statistics.median(5 * p / (f + 4 * n) for p, f, n in pairs),
        "bytes_per_sample": held.nbytes / len(data),
        "mean_tokens": float(data.lengths().mean()),
        "first_equals_next": all(same),
        "loss_difference": max(losses),
        "tensor_difference": max(tensors),
    }


if __name__ == "__main__":
    main()
