"""Fisher scores in batches against one backward pass per sample.

    python benchmarks/fisher.py [--proxies 256] [--repeats 5]

MiniLM with its real weights on BBC headlines and on random texts of 128 tokens, and two blocks of ViT-B/16;
float32, one thread. The loop takes one forward and one backward pass per sample and squares the parameters' gradients:
the textbook definition. Both compute the same scores, in turn, in this process.

What bounds the ratio is measured beside it: a forward and backward pass over the same batches without any norm
(``plain``), and the time that the scores' matrix products alone would take at the rate of one large product.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from fedhello.client.fisher import block_scores
from fedhello.client.memory import StepMemory
from fedhello.config.load import load_config
from fedhello.data.batches import Samples, evaluation_batches
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare
from models import texts, vit_b16

BATCH = 32


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    session = prepare(load_config(None, [f"data.proxy={arguments.proxies}"]))
    cases = {
        "minilm, headlines": (session.model, session.server.proxy),
        "minilm, 128 tokens": (session.model, texts(32, 128)),
        "vit-b16 shape, 2 blocks": vit_b16(samples=8, num_hidden_layers=2),
    }
    for model in (session.model, cases["vit-b16 shape, 2 blocks"][0]):
        disturb(model)
    print(
        json.dumps(
            {
                "benchmark": "fisher",
                "goal_speedup": 10,
                "goal_relative_error": 1e-6,
                "cases": {name: compare(*case, arguments.repeats) for name, case in cases.items()},
                "peak_bytes_by_batch_size": {b: peak_bytes(*cases["minilm, headlines"], b) for b in (8, 32, 128)},
                "repeats": arguments.repeats,
                "threads": torch.get_num_threads(),
                "versions": versions(),
            },
            indent=2,
        )
    )


def disturb(model: LoraModel) -> None:
    """Give every factor values, so that every gradient is other than 0."""
    generator = torch.Generator().manual_seed(0)
    start = model.snapshot(share_head=True).tensors
    model.write({name: v + 0.02 * torch.randn(v.shape, generator=generator) for name, v in start.items()})


def compare(model: LoraModel, data: Samples, repeats: int) -> dict[str, object]:
    """Return the CPU seconds of both ways and of what bounds the faster, and how far their scores are apart."""
    with FlopCounterMode(display=False) as counter:
        block_scores(model, data, BATCH)
    flops = counter.get_total_flops()
    x, W = torch.randn(512, 512), torch.randn(512, 1024)
    ways: dict[str, Callable[[], object]] = {
        "scores": lambda: block_scores(model, data, BATCH),
        "plain": lambda: squares(model, data, BATCH),
        "loop": lambda: squares(model, data, 1),
        "products": lambda: [x @ W for _ in range(20)],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    errors = []
    for _ in range(repeats):
        results = {}
        for name, way in ways.items():
            begin = time.process_time()
            results[name] = way()
            found[name].append(time.process_time() - begin)
        exact = np.array(results["loop"]) / len(data)
        errors.append(np.abs(np.array(results["scores"]) / exact - 1).max())
    found["products"] = [flops / (20 * 2 * x.numel() * W.shape[1]) * s for s in found["products"]]
    return {
        "samples": len(data),
        "gigaflops": flops / 1e9,
        "mean_tokens": float(data.lengths().mean()),
        "cpu_seconds": {name: statistics.median(s) for name, s in found.items()},
        "speedup": ratio(found["loop"], found["scores"]),
        "speedup_without_norms": ratio(found["loop"], found["plain"]),
        "speedup_of_products_alone": ratio(found["loop"], found["products"]),
        "worst_relative_error": max(errors),
    }


def squares(model: LoraModel, data: Samples, batch_size: int) -> np.ndarray:
    """Return each block's sum over the batches of the squared gradient: that of the scores at a batch size of 1."""
    names = sorted(name for name, block in model.block_of.items() if block is not None)
    parameters = model.set_trainable(names)
    totals = np.zeros(model.blocks.count)
    model.module.eval()
    for at in evaluation_batches(data.lengths(), batch_size):
        found = predictions(model, data.batch(at))
        log_likelihood = -cross_entropy(found.z, found.y, reduction="sum")
        for name, gradient in zip(names, torch.autograd.grad(log_likelihood, parameters), strict=True):
            totals[model.block_of[name]] += float(gradient.double().square().sum())
    return totals


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median of the ratios of measurements taken in turn."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def peak_bytes(model: LoraModel, data: Samples, batch_size: int) -> int:
    """Return the most bytes of tensors that live at once while scoring."""
    with StepMemory(model.module.parameters()) as memory:
        block_scores(model, data, batch_size)
    return memory.peak_bytes


if __name__ == "__main__":
    main()
