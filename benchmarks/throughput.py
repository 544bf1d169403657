"""How fast clients train: bf16 against fp32, the compute that freezing saves, and the published solver's way.

    python benchmarks/throughput.py [--part bf16 inverted published] [--repeats 5]

bf16       samples per second of local training in bf16 autocast / in fp32, MiniLM, demo headlines, by batch size
inverted   step time of the last c of L blocks / step time of all blocks, over the same ratio of counted FLOPs; MiniLM
           and BERT-base's shape: 1.0 means that time follows the work which is needed, 1.1 that a tenth is wasted
published  one client's round on 96 headlines, batches of 16, fp32: the published solver's way (a deep copy of the model
           per client, samples padded to a fixed length, gradients and optimiser for every block, a rate of zero for the
           frozen ones) against local training here, for the last 2 of 6 blocks and for all 6; with the bytes saved for
           backward of each. The fixed length is 32 tokens, the demo's data.max_length of 128, or the batch's longest.

All cases of a part take turns in one process; ratios are of one turn, and the median of the turns is given.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fedhello.allocation.geometric import allocate_blocks
from fedhello.allocation.needs import needs
from fedhello.client.calibration import calibrate
from fedhello.client.memory import StepMemory
from fedhello.client.training import Assignment, local_training
from fedhello.config.load import load_config
from fedhello.data.batches import Examples
from fedhello.model.adapter import LoraModel
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare
from fedhello.types import Allocation
from models import SETTINGS, bert_base, texts


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"bf16": bf16, "inverted": inverted, "published": published}
    parser.add_argument("--part", nargs="*", choices=list(parts), default=list(parts))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    found = {name: parts[name](arguments.repeats) for name in arguments.part}
    facts = {"threads": torch.get_num_threads(), "bf16_instructions": torch.cpu._is_avx512_bf16_supported()}
    print(json.dumps({"benchmark": "throughput", **found, **facts, "versions": versions()}, indent=2))


def turns(cases: dict[str, Callable[[], object]], base: str, repeats: int) -> dict[str, float]:
    """Run all cases in turn and return each one's median of time / the base's time in the same turn."""
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        seconds = {}
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            seconds[name] = time.perf_counter() - begin
        if turn:  # the first one warms up
            for name in cases:
                ratios[name].append(seconds[name] / seconds[base])
    return {name: statistics.median(values) for name, values in ratios.items()}


def headlines(samples: int) -> tuple[LoraModel, Examples]:
    """MiniLM, and demo headlines that no client of it needs to be, drawn with a seed."""
    session = prepare(load_config(None, ["train.measure_memory=false"]))
    everyone = session.server.test
    chosen = np.random.default_rng(0).choice(len(everyone), samples, replace=False)
    return session.model, everyone.subset(chosen)


def train(model: LoraModel, blocks: tuple[int, ...], data: Examples, **settings: Any) -> dict[str, float]:
    """Train one client's round from the same values each time."""
    adapter = model.snapshot(share_head=True)
    work = Assignment(0, 0, adapter.names(Allocation(blocks)), data, (0, 1, 2, 3, 4), seed=0)
    _, metrics = local_training(model, work, replace(SETTINGS, **({"measure_memory": False} | settings)))
    model.write(adapter.tensors)
    return metrics


def bf16(repeats: int) -> list[dict[str, float]]:
    """Compare bf16 autocast with fp32."""
    model, data = headlines(256)
    everything = tuple(range(model.blocks.count))
    rows = []
    for batch_size in (8, 16, 32, 64, 128):
        cases = {
            dtype: lambda dtype=dtype, size=batch_size: train(model, everything, data, autocast=dtype, batch_size=size)
            for dtype in ("none", "bfloat16")
        }
        ratio = turns(cases, "none", repeats)["bfloat16"]
        rows.append({"batch_size": batch_size, "speedup": 1 / ratio, "goal": 1.8 if batch_size >= 32 else None})
    return rows


def inverted(repeats: int) -> list[dict[str, Any]]:
    """Compare the time of the last c blocks with the work that they need."""
    model, data = headlines(64)
    bert, _ = bert_base(2, 8)
    shape = (64, int(data.lengths().max()))
    return [
        *inverted_rows("minilm", model, data, shape, repeats),
        *inverted_rows("bert-base", bert, texts(8, 64), (8, 64), repeats),
    ]


def inverted_rows(
    name: str, model: LoraModel, data: Examples, shape: tuple[int, int], repeats: int
) -> list[dict[str, Any]]:
    """Do so for one model and batch."""
    L = model.blocks.count
    costs = calibrate(model, policies=("keep",)).at(shape, [shape])
    sets = {c: allocate_blocks("inverted_triangle", c, L) for c in (L, 2 * L // 3, L // 2, L // 3, 1, 0)}
    times = turns({str(c): lambda c=c: train(model, sets[c], data) for c in sets}, str(L), repeats)
    rows = []
    for c, blocks in sets.items():
        share = needs(costs, Allocation(blocks)).flops / needs(costs, Allocation(sets[L])).flops
        row = {"model": name, "capacity": c, "time_ratio": times[str(c)], "needed_share": share}
        rows.append(row | {"time_over_needed": times[str(c)] / share, "goal": 1.10})
    return rows


def published(repeats: int) -> dict[str, Any]:
    """Compare a client's round with the published solver's."""
    model, data = headlines(96)
    L = model.blocks.count
    inverted_two = allocate_blocks("inverted_triangle", L // 3, L)
    ours = {"batch_size": 16}
    cases = {
        "published, padded to 32": lambda: published_round(model, inverted_two, data, 32),
        "published, padded to 128": lambda: published_round(model, inverted_two, data, 128),
        "published, padded per batch": lambda: published_round(model, inverted_two, data, None),
        "here, last 2 of 6": lambda: train(model, inverted_two, data, **ours),
        "here, all 6": lambda: train(model, tuple(range(L)), data, **ours),
    }
    ratios = turns(cases, "published, padded to 32", repeats)
    saved = {
        "published, padded to 32": published_round(model, inverted_two, data, 32, measure=True),
        "published, padded to 128": published_round(model, inverted_two, data, 128, measure=True),
        "here, last 2 of 6": train(model, inverted_two, data, measure_memory=True, **ours)["saved_bytes"],
        "here, all 6": train(model, tuple(range(L)), data, measure_memory=True, **ours)["saved_bytes"],
    }
    return {
        "longest_sample": int(data.lengths().max()),
        "mean_tokens": float(data.lengths().mean()),
        "speedup_over_padded_to_32": {name: 1 / ratio for name, ratio in ratios.items()},
        "goal_speedup": {"here, last 2 of 6": 5.0, "here, all 6": 3.5},
        "saved_bytes": saved,
    }


def published_round(
    model: LoraModel, blocks: tuple[int, ...], data: Examples, longest: int | None, measure: bool = False
) -> float:
    """Train a client as the published solver does; return the bytes that its first step saved for backward."""
    module = copy.deepcopy(model.module)
    frozen, trained = [], []
    for name, parameter in module.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.requires_grad_(True)
            block = model.blocks.index(name.removeprefix("base_model.model."))
            (trained if block is None or block in blocks else frozen).append(parameter)
    optimizer = torch.optim.AdamW([{"params": trained, "lr": 1e-3}, {"params": frozen, "lr": 0.0}], weight_decay=0.01)
    order = np.random.default_rng(0).permutation(len(data))
    memory = StepMemory(module.parameters())
    module.train()
    for begin in range(0, len(order), 16):
        batch = data.batch(order[begin : begin + 16])
        inputs = batch.inputs
        if longest is not None:
            missing = longest - batch.shape[1]
            inputs = {name: torch.nn.functional.pad(value, (0, missing)) for name, value in inputs.items()}
        if measure:
            with memory:
                cross_entropy(module(**inputs).logits, batch.labels)
            break
        loss = cross_entropy(module(**inputs).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(memory.saved_bytes)


if __name__ == "__main__":
    main()
