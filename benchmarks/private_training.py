"""What training of blocks adds under differential privacy, on the demo with more clients.

    python benchmarks/private_training.py [--rounds 6] [--seeds 0,1] > benchmarks/results/private_training.json

Every row is a setting, as means over seeds: the head alone with the whole budget, and fed-hello with a share
``privacy.split`` of it for the head and the rest for rounds of ``--per-round`` clients, where the model is selected on
validation data, or is the last one; then fed-hello without privacy. Rank 2; under privacy B in the last two blocks
trains.
"""

import argparse
import sys
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import fedhello as fh
from runs import show

TRAINS = {"train.sampling": "poisson", "model.lora.rank": 2}
LAST = {"train.selection": "last"}


def rows(epsilon: float) -> dict[str, dict[str, Any]]:
    """Return name → overrides."""
    private = TRAINS | {"privacy.epsilon": epsilon}
    return {
        "head-only": {"method.name": "head-only", "privacy.epsilon": epsilon},
        "fed-hello, split 0.5": private,
        "fed-hello, split 0.9": private | {"privacy.split": 0.9},
        "fed-hello, split 0.5, last model": private | LAST,
        "fed-hello without privacy": TRAINS,
        "fed-hello without privacy, last model": TRAINS | LAST,
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--per-round", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--seeds", default="0,1")
    asked = parser.parse_args()
    size = {
        "data.clients": asked.clients,
        "data.partition.minimum": 2,
        "train.clients_per_round": asked.per_round,
        "train.rounds": asked.rounds,
        "train.measure_memory": False,
    }
    found: dict[str, Any] = {}
    for name, words in rows(asked.epsilon).items():
        summaries = []
        for seed in asked.seeds.split(","):
            with TemporaryDirectory() as out:
                run = fh.run(None, size | words | {"run.seed": int(seed), "run.out": out})
                summaries.append(run.summary)
        found[name] = {
            "start": round(mean(one.start for one in summaries), 4),
            "mean of the last 5": round(mean(one.mean_last_5 or one.start for one in summaries), 4),
            "epsilon": [None if one.privacy is None else round(one.privacy["epsilon"], 3) for one in summaries],
        }
        print(name, found[name], file=sys.stderr)
    show(vars(asked) | {"rows": found})


if __name__ == "__main__":
    main()
