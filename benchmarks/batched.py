"""Clients that share each pass, with an adapter each, beside the same clients one after the other.

    python benchmarks/batched.py [--clients 4 10] [--texts 4 16 64] [--blocks 1 3 6] [--turns 3] [key=value …]

For each number of clients, of texts per client and of trained blocks (the last ones of MiniLM): the time of one epoch
of all clients alone over that of all together, in turn, the median; and the largest difference of a tensor that they
get, after one step of SGD in float32 without dropout, as a share of its largest change: rounding. On a CPU times are
processor seconds, on a device (``run.device=cuda``) seconds until it is done.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from fedhello.client.settings import TrainingSettings
from fedhello.client.together import train_together
from fedhello.client.training import Assignment, Trained, local_training
from fedhello.config.load import load_config
from fedhello.data.batches import Samples
from fedhello.model.adapter import LoraModel
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare
from fedhello.types import Allocation


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[4, 10])
    parser.add_argument("--texts", type=int, nargs="*", default=[4, 16, 64])
    parser.add_argument("--blocks", type=int, nargs="*", default=[1, 3, 6])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    usual = ["train.measure_memory=false", "run.workers=1"]
    session = prepare(load_config(None, [*usual, *arguments.overrides]))
    model, data, settings = session.model, session.server.test, replace(session.engine.settings, epochs=1)
    rows, L = [], session.model.blocks.count
    cases = list(product(arguments.clients, arguments.texts, arguments.blocks))
    works = [assignments(model, data, K, texts, tuple(range(L - count, L))) for K, texts, count in cases]
    for (K, texts, count), some in zip(cases, works, strict=True):
        rows.append({"clients": K, "texts": texts, "blocks": count, **times(model, some, settings, arguments.turns)})
    without_dropout(model)
    for row, some in zip(rows, works, strict=True):
        row["difference"] = difference(model, some, replace(settings, autocast="none"))
    facts = {"device": str(model.device), "autocast": settings.autocast, "threads": torch.get_num_threads()}
    print(json.dumps({"benchmark": "batched", "rows": rows, **facts, "versions": versions()}, indent=2))


def assignments(model: LoraModel, data: Samples, K: int, texts: int, blocks: tuple[int, ...]) -> list[Assignment]:
    """Return clients of so many texts each, which train some blocks and the head."""
    names = model.snapshot(share_head=True).names(Allocation(blocks))
    parts = [np.arange(k * texts, (k + 1) * texts) % len(data) for k in range(K)]
    classes = tuple(range(model.num_labels))
    return [Assignment(k, 0, names, data.subset(part), classes, seed=0) for k, part in enumerate(parts)]


def alone(model: LoraModel, works: Sequence[Assignment], settings: TrainingSettings) -> list[Trained]:
    """Train clients one after the other from the same start; the model keeps its values."""
    start, found = model.read(works[0].names), []
    for work in works:
        model.write(start)
        found.append(local_training(model, work, settings))
    model.write(start)
    return found


def together(model: LoraModel, works: Sequence[Assignment], settings: TrainingSettings) -> list[Any]:
    """Train the same clients together."""
    return train_together(model, works, [model.read(works[0].names)] * len(works), settings)


def times(model: LoraModel, works: Sequence[Assignment], settings: TrainingSettings, turns: int) -> dict[str, float]:
    """Return the median times of both ways, and how many times as fast the second is."""
    ways: dict[str, Callable[[LoraModel, Sequence[Assignment], TrainingSettings], object]]
    ways = {"alone": alone, "together": together}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, train in ways.items():
            begin = now(model)
            train(model, works, settings)
            if turn:  # the first one warms up
                found[way].append(now(model) - begin)
    ratios = [one / other for one, other in zip(found["alone"], found["together"], strict=True)]
    return {way: statistics.median(seconds) for way, seconds in found.items()} | {"times": statistics.median(ratios)}


def now(model: LoraModel) -> float:
    """Return processor seconds so far, or seconds once a device has done all that it was given."""
    if model.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(model.device)
    return time.perf_counter()


def without_dropout(model: LoraModel) -> None:
    """Switch a model's dropout off for good."""
    for module in model.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):  # of attention
            module.dropout_prob = 0.0  # type: ignore[assignment]


def difference(model: LoraModel, works: Sequence[Assignment], settings: TrainingSettings) -> float:
    """Return how far a tensor of the results of one step is apart, as a share of its largest change; the largest."""
    most = max(len(work.data) for work in works)
    step = replace(settings, optimizer="sgd", momentum=0.0, weight_decay=0.0, epochs=1, batch_size=most)
    start, found = model.read(works[0].names), 0.0
    for (values, _), (others, _) in zip(alone(model, works, step), together(model, works, step), strict=True):
        for name, value in values.items():
            moved = float((value - start[name]).abs().max())
            found = max(found, float((value - others[name]).abs().max()) / moved if moved else 0.0)
    return found


if __name__ == "__main__":
    main()
