"""What aggregation costs: FlexLoRA's redistribution against a dense SVD, and each method's time and memory per update.

    python benchmarks/aggregation.py [--updates 1000] [--only redistribution|methods]

``redistribution``: one module of d × d with d = 4096, 10 clients of ranks 4 … 64. The reference forms ΔW and takes its
dense SVD; ours stays in the factors. Both give each client its part; the error is that of the largest part's product.

``methods``: updates of BERT-base's shape (12 blocks, query and value, r 16, 2.4 MB each) stream through each
aggregator one by one. ``extra_updates`` is the most memory that was held beyond one update and the global adapter, in
updates: it must not grow with the number of clients, so it is given for a tenth of the updates too. Methods that share
the aggregator and what they allocate (blocks or ranks) are measured once.
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import psutil
import torch

from fedhello.aggregation.lowrank import LowRankSum, split_svd
from fedhello.factors import held_part
from fedhello.methods import METHODS
from fedhello.runs.summarise import versions
from fedhello.strategy import AggregationContext, AllocationContext
from fedhello.types import LORA_A, LORA_B, Adapter, Allocation, Budget, Client, Federation, Update

L, D, R = 12, 768, 16
SKIPPED = {"helora-kd": "needs a model", "local-only": "keeps a model per client by definition"}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--only", choices=("redistribution", "methods"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "aggregation", "threads": torch.get_num_threads()}
    if arguments.only != "methods":
        result["redistribution"] = redistribution()
    if arguments.only != "redistribution":
        # A process each: what one has freed must not hide what the next one takes.
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
            result["methods"] = [processes.submit(method, names, arguments.updates).result() for names in alike()]
        result["skipped"] = SKIPPED
    print(json.dumps(result | {"versions": versions()}, indent=1))


def redistribution(d: int = 4096, ranks: tuple[int, ...] = (4, 4, 8, 8, 16, 16, 32, 32, 64, 64)) -> dict[str, Any]:
    """Compare FlexLoRA's way from the clients' factors to their next ones with the dense way."""
    generator = torch.Generator().manual_seed(0)
    clients = [(torch.randn(d, r, generator=generator), torch.randn(r, d, generator=generator)) for r in ranks]
    w = [1 / len(ranks)] * len(ranks)

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        total = LowRankSum()
        for (B, A), weight in zip(clients, w, strict=True):
            total.add(B, A, weight)
        return split_svd(total, max(ranks), "B")

    def dense() -> tuple[torch.Tensor, torch.Tensor]:
        ΔW = sum(weight * (B @ A) for (B, A), weight in zip(clients, w, strict=True))
        P, sigma, Q = torch.linalg.svd(ΔW, full_matrices=False)
        return P[:, : max(ranks)] * sigma[: max(ranks)], Q[: max(ranks)]

    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        B, A = ours()
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    B_dense, A_dense = dense()
    dense_seconds = time.perf_counter() - begin
    reference = B_dense.double() @ A_dense.double()
    return {
        "d": d,
        "ranks": ranks,
        "seconds": min(seconds),
        "dense_seconds": dense_seconds,
        "times_faster": dense_seconds / min(seconds),
        "goal_times_faster": 50,
        "relative_error": float((B @ A - reference).norm() / reference.norm()),
        "goal_relative_error": 1e-4,
    }


def adapter() -> Adapter:
    """BERT-base's LoRA factors, r 16."""
    generator = torch.Generator().manual_seed(0)
    modules = {f"layer.{l}.{part}": l for l in range(L) for part in ("query", "value")}
    tensors = {m + LORA_A: torch.randn(R, D, generator=generator) / D**0.5 for m in modules}
    tensors |= {m + LORA_B: torch.zeros(D, R) for m in modules}
    tensors["head"] = torch.zeros(5, D)
    blocks = {m + end: l for m, l in modules.items() for end in (LORA_A, LORA_B)}
    return Adapter(tensors, blocks | {"head": None})


def alike() -> list[list[str]]:
    """Group the methods by their aggregator and what they allocate."""
    groups: dict[tuple[Any, str], list[str]] = {}
    for name, row in METHODS.items():
        if name not in SKIPPED:
            key = getattr(row.aggregate, "func", row.aggregate), "ranks" if row.allocates == "ranks" else "blocks"
            groups.setdefault(key, []).append(name)
    return list(groups.values())


def method(names: list[str], updates: int) -> dict[str, Any]:
    """Stream updates through the aggregator that some methods share."""
    name = names[0]
    tiers = (Budget(blocks=4, rank=4), Budget(blocks=8, rank=8), Budget(blocks=12, rank=16))
    clients = tuple(Client(k, k % 3, tiers[k % 3], samples=10 + k % 7) for k in range(updates))
    federation = Federation(clients, tiers, num_blocks=L, clients_per_round=updates, seed=0, rank=R)
    few, many = (_stream(name, replace(federation, clients=clients[:n])) for n in (max(1, updates // 10), updates))
    size = sum(value.nbytes for value in adapter().tensors.values())
    return {
        "method": name,
        "likewise": names[1:],
        "updates": updates,
        "milliseconds_per_update": 1000 * many["seconds"] / updates,
        "extra_updates": many["extra_bytes"] / size,
        "extra_updates_for_a_tenth": few["extra_bytes"] / size,
    }


def _stream(name: str, federation: Federation) -> dict[str, float]:
    bound, before = METHODS[name].bind(), adapter()
    chosen = {
        k.id: bound.allocate(AllocationContext(k, federation, 1, scores=tuple(float(l + 1) for l in range(L))))
        for k in federation.clients
    }
    m = {k: a for k, a in chosen.items() if a is not None}
    process, peak, done = psutil.Process(), [0], threading.Event()
    making = [0.0]

    def updates() -> Iterator[Update]:
        generator = torch.Generator().manual_seed(1)
        for k, allocation in m.items():
            begin = time.perf_counter()
            update = _update(before, allocation, k, federation, generator)
            making[0] += time.perf_counter() - begin
            yield update

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    start = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    bound.aggregate(AggregationContext(before, federation, 1, m), updates())
    seconds = time.perf_counter() - begin - making[0]
    done.set()
    watcher.join()
    return {"seconds": seconds, "extra_bytes": max(0, peak[0] - start)}


def _update(before: Adapter, allocation: Allocation, k: int, federation: Federation, generator: Any) -> Update:
    mine = held_part(before, allocation)
    names = mine.names(allocation)
    tensors = {n: mine.tensors[n] + 0.01 * torch.randn(mine.tensors[n].shape, generator=generator) for n in names}
    return Update(k, 1, federation.clients[k].samples, tensors, {"batches": 1})


if __name__ == "__main__":
    main()
