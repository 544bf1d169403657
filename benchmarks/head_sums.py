"""What one client's head statistics can do to a solved head, and whether honest clients are left alone.

    python benchmarks/head_sums.py [--seeds 8] [--attacked 2]

The demo's data, split over 10 and 20 clients: two classes each, or by Dirichlet(0.05), (0.1) and (0.3). For each split
the head is solved from what clients state, and from sums in which nobody weighs more than the median client. ``honest``
has by how many standard errors of −log p on the validation data the second is better; it must stay below 3. In the
first splits over 20 clients, client 0 then states 2³¹ − 1 samples (of which ten times the upper quartile count), and
sends

    mislabelled   its own samples under the labels of the next classes
    opposite      the opposite of the classes' means, as long as they can be
    exchanged     the mean of the next class for each class, likewise

``attacked`` has test accuracies: honest, with the cap alone, and with the second sum where it is surely better.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from statistics import fmean, median_low

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.aggregation.share import MAX_SHARE, most_samples
from fedhello.config.load import load_config
from fedhello.data.partition import dirichlet, pathological
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import Head, class_means, family, solved_head
from fedhello.model.statistics import UNIT, HeadSums, Moments, StatisticsSettings, head_sums, packed, scaled_to
from fedhello.runs.head_weights import both_sums, is_surely_better
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import load

HUGE = 2**31 - 1
SETTINGS = StatisticsSettings(Moments(), least=2)
Split = Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]
SPLITS: dict[str, Split] = {
    "two classes each": lambda labels, clients, rng: list(pathological(labels, clients, 2, 10, rng)),
    **{
        f"dirichlet {alpha}": lambda labels, clients, rng, alpha=alpha: list(dirichlet(labels, clients, alpha, 10, rng))
        for alpha in (0.05, 0.1, 0.3)
    },
}


class Demo:
    """The demo's features and labels, as training, validation and test data."""

    def __init__(self) -> None:
        loaded = load(load_config(None, ["method.name=head-only"]))
        samples, held_out = loaded.samples, loaded.held_out
        h, y = pooled_features(loaded.model, samples), torch.from_numpy(samples.labels)
        kept = np.concatenate([held_out.validation, held_out.test, held_out.proxy, held_out.public])
        train = np.setdiff1d(np.arange(len(y)), kept)
        self.train, self.validation, self.test = (
            (h[where], y[where]) for where in map(torch.from_numpy, (train, held_out.validation, held_out.test))
        )
        self.classes = len(loaded.data.label_names)

    def sums(self, part: np.ndarray, shift: int = 0) -> HeadSums:
        """Return the statistics of some training samples, with labels shifted."""
        h, y = self.train
        return head_sums(h[part], (y[part] + shift) % self.classes, self.classes, SETTINGS)

    def heads(self, parts: list[HeadSums], counts: list[int]) -> list[Head]:
        """Return the head of what clients state, and that of no weight beyond the median's where it differs."""
        most = most_samples(counts, MAX_SHARE)
        capped = (((k,), scaled_to(part, most)) for k, part in enumerate(parts))
        totals = both_sums(capped, median_low(counts), SETTINGS.moments)
        return [
            solved_head(family(total, SETTINGS.moments, "lda"), *self.validation)
            for total in totals
            if total is not None
        ]

    def fall(self, one: Head, other: Head) -> float:
        """Return by how many standard errors the other head's −log p on the validation data is less."""
        fall = self.losses(one) - self.losses(other)
        return float(fall.mean() / fall.std().clamp_min(1e-12) * math.sqrt(len(fall)))

    def losses(self, head: Head) -> Tensor:
        """Return −log p of the validation data."""
        h, y = self.validation
        return cross_entropy(h.double() @ head.weight.double().T + head.bias.double(), y, reduction="none")

    def accuracy(self, head: Head) -> float:
        """Return the accuracy on the test data."""
        h, y = self.test
        return float(((h @ head.weight.T + head.bias).argmax(1) == y).double().mean())


def of_means(means: Tensor, n: int) -> HeadSums:
    """Return statistics of n samples that all lie at a class's mean: the longest that pass the checks."""
    unit, each = (means / means.norm(dim=1, keepdim=True)).double() / UNIT, n // len(means)
    counts = torch.full((len(means),), each)
    return HeadSums(counts, (unit * each).long(), packed(unit.T @ unit * each).long(), (counts > 0).long())


def attacks(demo: Demo, own: list[HeadSums], part: np.ndarray) -> dict[str, HeadSums]:
    """Return what client 0 may send, whose own samples are ``part``."""
    total, _ = both_sums((((k,), sums) for k, sums in enumerate(own)), None, SETTINGS.moments)
    means, wrong, times = class_means(total), demo.sums(part, 1), HUGE // len(part)
    return {
        "mislabelled": HeadSums(wrong.counts * times, wrong.features * times, wrong.moments * times, wrong.cells),
        "opposite": of_means(-means, HUGE),
        "exchanged": of_means(means.roll(-1, 0), HUGE),
    }


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--attacked", type=int, default=2)
    arguments = parser.parse_args()
    demo, honest, attacked = Demo(), [], []
    for name, split in SPLITS.items():
        falls = []
        for clients, seed in ((clients, seed) for clients in (10, 20) for seed in range(arguments.seeds)):
            parts = split(demo.train[1].numpy(), clients, np.random.default_rng(seed))
            own, counts = [demo.sums(part) for part in parts], [len(part) for part in parts]
            plain, *even = demo.heads(own, counts)
            falls += [demo.fall(plain, other) for other in even]
            if clients == 20 and seed < arguments.attacked:
                for attack, sent in attacks(demo, own, parts[0]).items():
                    one, other = demo.heads([sent, *own[1:]], [HUGE, *counts[1:]])
                    taken = other if is_surely_better(other, one, *demo.validation) else one
                    accuracies = {"honest": plain, "capped": one, "taken": taken}
                    found = {key: demo.accuracy(head) for key, head in accuracies.items()}
                    attacked.append({"split": name, "seed": seed, "attack": attack, **found})
                    attacked[-1]["standard_errors"] = demo.fall(one, other)
        honest.append({"split": name, "heads": len(falls), "most": max(falls), "mean": fmean(falls)})
        print(honest[-1], file=sys.stderr, flush=True)
    print(
        json.dumps({"benchmark": "head_sums", "honest": honest, "attacked": attacked, "versions": versions()}, indent=1)
    )


if __name__ == "__main__":
    main()
