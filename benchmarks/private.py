"""Test accuracy of a head from one release of sums under differential privacy for clients.

    python benchmarks/private.py [--clients 200] [--draws 3] > benchmarks/results/private.json

Nothing trains: MiniLM's features of the demo's headlines are taken once. Each of the clients has two of five classes.
Every ε is the mean of ``--draws`` draws of noise; ``null`` is the same sums, clipped, without noise. ``means`` and
``moments`` are ``privacy.head``, the latter with both solvers; ``raw`` leaves out the shrinkage of the class means by
the server's features. ``plain`` is the head that is solved without privacy, and ``server alone`` the nearest class
means of the server's own labelled samples, to which no client contributes.
"""

import argparse
import json
import sys
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from fedhello.config.load import load_config
from fedhello.config.settings import data_settings
from fedhello.data.batches import Samples
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import Head, family, solved_head
from fedhello.model.private_sums import WHOLE, PrivateStatistics, noised, private_sums, repaired
from fedhello.model.statistics import DEFAULT_STATISTICS, Moments, add_up, head_sums, plus
from fedhello.privacy.ledger import Planned, calibrated
from fedhello.runs.summarise import versions
from fedhello.setup.data import partition_data
from fedhello.setup.prepare import load

EPSILONS = (8.0, 4.0, 1.0, None)
DELTA = 1e-5
KINDS = {
    "means": (False, "lda", True),
    "means, raw": (False, "lda", False),
    "moments, lda": (True, "lda", True),
    "moments, ridge": (True, "ridge", True),
    "moments, ridge, raw": (True, "ridge", False),
}
"""Name → whether second moments are released, the solver, and whether class means are shrunk."""


def accuracy(head: Head, h: Tensor, y: Tensor) -> float:
    """Return the share of samples that a head classifies correctly."""
    return float(((h @ head.weight.T + head.bias).argmax(dim=1) == y).double().mean())


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--draws", type=int, default=3)
    asked = parser.parse_args()
    config = load_config(None, ["method.name=head-only", f"data.clients={asked.clients}", "data.partition.minimum=2"])
    loaded = load(config)

    def features(samples: Samples) -> tuple[Tensor, Tensor]:
        return pooled_features(loaded.model, samples), torch.from_numpy(samples.labels)

    h, y = features(loaded.samples)
    parts = [torch.from_numpy(p) for p in partition_data(data_settings(config.data), loaded.data, loaded.held_out, 0)]
    held_out = loaded.held_out
    validation, test, proxy = (
        (h[torch.from_numpy(p)], y[torch.from_numpy(p)]) for p in (held_out.validation, held_out.test, held_out.proxy)
    )
    public = torch.cat([validation[0], proxy[0]])
    num_labels = len(loaded.data.label_names)

    def plain(solver: Any) -> float:
        sums = add_up([head_sums(h[p], y[p], num_labels, DEFAULT_STATISTICS) for p in parts], Moments())
        return accuracy(solved_head(family(sums, Moments(), solver), *validation), *test)

    def server_alone() -> float:
        labels = torch.cat([validation[1], proxy[1]])
        sums = private_sums(public, labels, num_labels, PrivateStatistics(clip=1e9))
        head = solved_head(family(repaired(sums, 0.0, public[:0], False), WHOLE, "lda"), *validation)
        return accuracy(head, *test)

    def private(epsilon: float | None, moments: bool, solver: Any, shrunk: bool) -> float:
        settings = PrivateStatistics(moments=moments)
        total = None
        for p in parts:
            part = private_sums(h[p], y[p], num_labels, settings)
            total = part if total is None else plus(total, part)
        assert total is not None
        noise = 0.0 if epsilon is None else calibrated([Planned("head", 1.0)], epsilon, DELTA)[0].noise
        deviation, found = noise * settings.most, []
        for _ in range(1 if epsilon is None else asked.draws):
            sums = repaired(noised(total, deviation), deviation, public if shrunk else public[:0], moments)
            head = solved_head(family(sums, WHOLE, solver), *validation)
            found.append(accuracy(head, *test))
        return mean(found)

    rows = {
        name: {str(epsilon): round(private(epsilon, *how), 4) for epsilon in EPSILONS} for name, how in KINDS.items()
    }
    sizes = sorted(map(len, parts))
    json.dump(
        {
            "clients": asked.clients,
            "samples": sum(sizes),
            "median samples of a client": sizes[len(sizes) // 2],
            "test samples": len(test[1]),
            "delta": DELTA,
            "draws": asked.draws,
            "noise": {str(e): calibrated([Planned("head", 1.0)], e, DELTA)[0].noise for e in EPSILONS if e},
            "accuracy": rows,
            "plain": {solver: round(plain(solver), 4) for solver in ("lda", "ridge")},
            "server alone": round(server_alone(), 4),
            "versions": versions(),
        },
        sys.stdout,
        indent=2,
    )
    print()


if __name__ == "__main__":
    main()
