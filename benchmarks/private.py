"""Test accuracy of a head from one release of sums under differential privacy for clients.

    python benchmarks/private.py [--clients 200] [--splits 10] [--draws 3] > benchmarks/results/private.json

Nothing trains: MiniLM's features of the demo's headlines are taken once. Each of the clients has two of five classes.
Every figure is the mean over ``--splits`` splits of the data into clients, validation, test and proxy samples (the
first is the demo's), each with ``--draws`` draws of noise, and has the standard error over the splits; ``null`` is the
same sums, clipped, without noise. ``means`` and ``moments`` are ``privacy.head``, the latter with both solvers;
``unaided`` means leave out what the server's own samples tell without labels: no shrinkage, no self-training.
With ``single samples`` these are protected instead of whole clients (``privacy.unit``), whatever the number of clients.
``plain`` is the head that is solved without privacy, and ``server alone`` the nearest class means of the server's own
labelled samples, to which no client contributes.
"""

import argparse
import math
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from fedhello.config.load import load_config
from fedhello.config.settings import data_settings
from fedhello.data.split import stratified_split
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import Head, family, solved_head
from fedhello.model.private_sums import WHOLE, PrivateStatistics, head_of, noised, private_sums, repaired
from fedhello.model.statistics import DEFAULT_STATISTICS, HeadSums, Moments, add_up, head_sums, plus
from fedhello.privacy.ledger import Planned, calibrated
from fedhello.setup.data import partition_data
from fedhello.setup.prepare import load
from runs import show

EPSILONS = (8.0, 4.0, 1.0, None)
DELTA = 1e-5
KINDS: dict[str, tuple[Any, Any]] = {
    "means": ("client", None),
    "moments, lda": ("client", "lda"),
    "moments, ridge": ("client", "ridge"),
    "means, single samples": ("sample", None),
    "moments, lda, single samples": ("sample", "lda"),
}
"""Name → what is protected, and the solver of second moments; None if they are not released."""


def accuracy(head: Head, h: Tensor, y: Tensor) -> float:
    """Return the share of samples that a head classifies correctly."""
    return float(((h @ head.weight.T + head.bias).argmax(dim=1) == y).double().mean())


def added(parts: list[HeadSums]) -> HeadSums:
    """Return the sum of contributions."""
    total, *rest = parts
    for part in rest:
        total = plus(total, part)
    return total


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--draws", type=int, default=3)
    asked = parser.parse_args()
    config = load_config(None, ["method.name=head-only", f"data.clients={asked.clients}", "data.partition.minimum=2"])
    loaded, stated = load(config), data_settings(config.data)
    h, y = pooled_features(loaded.model, loaded.samples), torch.from_numpy(loaded.samples.labels)
    num_labels = len(loaded.data.label_names)
    noise = {e: calibrated([Planned("head", 1.0)], e, DELTA)[0].noise if e else 0.0 for e in EPSILONS}
    found: dict[str, list[float]] = {}

    for seed in range(asked.splits):
        split = stratified_split(
            loaded.data.labels, validation=stated.validation, test=stated.test, proxy=stated.proxy, seed=seed
        )
        parts = [torch.from_numpy(part) for part in partition_data(stated, loaded.data, split, seed)]
        validation, test, proxy = (torch.from_numpy(part) for part in (split.validation, split.test, split.proxy))
        own = torch.cat([h[validation], h[proxy]])

        def score(name: str, heads: list[Head], test: Tensor = test) -> None:
            found.setdefault(name, []).append(mean(accuracy(head, h[test], y[test]) for head in heads))

        for solver in ("lda", "ridge"):
            sums = add_up([head_sums(h[p], y[p], num_labels, DEFAULT_STATISTICS) for p in parts], Moments())
            score(f"plain, {solver}", [solved_head(family(sums, Moments(), solver), h[validation], y[validation])])
        labels = torch.cat([y[validation], y[proxy]])
        alone = repaired(private_sums(own, labels, num_labels, PrivateStatistics(clip=1e9)), 0.0, own[:0], False)
        score("server alone", [solved_head(family(alone, WHOLE, "lda"), h[validation], y[validation])])
        for name, (unit, solver) in KINDS.items():
            settings = PrivateStatistics(moments=solver is not None, unit=unit)
            total = added([private_sums(h[p], y[p], num_labels, settings) for p in parts])
            for epsilon in EPSILONS:
                deviation = noise[epsilon] * settings.most
                drawn = [noised(total, deviation) for _ in range(asked.draws if epsilon else 1)]
                heads = [head_of(one, deviation, own, y[validation], solver)[1] for one in drawn]
                score(f"{name}, ε={epsilon}", heads)
                if name == "means":
                    raw = [repaired(one, deviation, own[:0], False) for one in drawn]
                    heads = [solved_head(family(one, WHOLE, "lda"), h[validation], y[validation]) for one in raw]
                    score(f"{name}, unaided, ε={epsilon}", heads)

    sizes = sorted(map(len, parts))
    show(
        {
            "clients": asked.clients,
            "samples": sum(sizes),
            "median samples of a client": sizes[len(sizes) // 2],
            "test samples": len(test),
            "delta": DELTA,
            "splits": asked.splits,
            "draws": asked.draws,
            "noise": {str(e): sigma for e, sigma in noise.items() if e},
            "accuracy": {
                name: {
                    "first split": round(values[0], 4),
                    "mean": round(mean(values), 4),
                    "standard error": round(stdev(values) / math.sqrt(len(values)), 4) if len(values) > 1 else None,
                }
                for name, values in found.items()
            },
        },
    )


if __name__ == "__main__":
    main()
