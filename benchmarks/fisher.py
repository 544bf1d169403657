"""Fisher scores in batches against a loop over single samples, on MiniLM with real headlines.

    python benchmarks/fisher.py [--proxies 256] [--repeats 3]

The loop takes one forward and one backward pass per sample and squares the parameters' gradients: the textbook
definition. Both compute the same scores on the same samples, in turn, in this process.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from torch.nn.functional import log_softmax

from fedhello.client.fisher import block_scores
from fedhello.client.memory import StepMemory
from fedhello.config.load import load_config
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    session = prepare(load_config(None, [f"data.proxy={arguments.proxies}"]))
    model, proxy = session.model, session.server.proxy
    generator = torch.Generator().manual_seed(0)
    start = model.snapshot(share_head=True).tensors
    model.write({name: v + 0.02 * torch.randn(v.shape, generator=generator) for name, v in start.items()})

    block_scores(model, proxy.subset(np.arange(32)))
    batched, looped, errors = [], [], []
    for _ in range(arguments.repeats):
        begin = time.perf_counter()
        fast = block_scores(model, proxy)
        middle = time.perf_counter()
        slow = loop(model, proxy)
        batched.append(middle - begin)
        looped.append(time.perf_counter() - middle)
        errors.append(max(abs(f - s) / s for f, s in zip(fast, slow, strict=True)))
    peaks = {}
    for batch_size in (8, 32, 128):
        with StepMemory(model.module.parameters()) as memory:
            block_scores(model, proxy, batch_size)
        peaks[batch_size] = memory.peak_bytes
    print(
        json.dumps(
            {
                "benchmark": "fisher",
                "proxies": len(proxy),
                "seconds_batched": statistics.median(batched),
                "seconds_loop": statistics.median(looped),
                "speedup_median": statistics.median(s / b for s, b in zip(looped, batched, strict=True)),
                "goal_speedup": 10,
                "worst_relative_error": max(errors),
                "goal_relative_error": 1e-4,
                "peak_bytes_by_batch_size": peaks,
                "threads": torch.get_num_threads(),
                "versions": versions(),
            },
            indent=2,
        )
    )


def loop(model, proxy) -> tuple[float, ...]:
    """Return the scores by one backward pass per sample."""
    names = sorted(name for name, block in model.block_of.items() if block is not None)
    parameters = model.set_trainable(names)
    totals = np.zeros(model.blocks.count)
    model.module.eval()
    for position in range(len(proxy)):
        batch = proxy.batch(np.array([position]))
        log_likelihood = log_softmax(model.module(**batch.inputs).logits, dim=1)[0, batch.labels[0]]
        for name, gradient in zip(names, torch.autograd.grad(log_likelihood, parameters), strict=True):
            totals[model.block_of[name]] += float(gradient.double().square().sum())
    return tuple(totals / len(proxy))


if __name__ == "__main__":
    main()
