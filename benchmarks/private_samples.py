"""What training adds to a private head where single samples are protected, on the demo with few clients.

    python benchmarks/private_samples.py [--seeds 0] > benchmarks/results/private_samples.json

Every row is one run of fed-hello at rank 2, with B in the last two blocks, five clients a round: the test accuracy of
the head that the whole budget gives alone, of the head that half of it gives before training, and after training with
the other half, of the model that is selected on validation data and of the last one.
"""

import argparse
import json
import sys
from typing import Any

import fedhello as fh
from fedhello.runs.loop import evaluate_adapter
from fedhello.runs.summarise import versions


def row(clients: int, epsilon: float, seed: int, rounds: int, epochs: int) -> dict[str, Any]:
    """Return what one run reaches."""
    budget = {"privacy.epsilon": epsilon, "privacy.unit": "sample", "run.seed": seed, "data.clients": clients}
    head = fh.start(fh.prepare(None, budget | {"method.name": "head-only"}))
    trains = {"train.rounds": rounds, "train.epochs": epochs, "train.evaluate_every": rounds, "model.lora.rank": 2}
    session = fh.prepare(None, budget | trains | {"train.measure_memory": False})
    before = fh.start(session)
    *_, (state, _) = fh.rounds(session, before.state)
    steps = session.private.steps
    return {
        "clients": clients,
        "epsilon": epsilon,
        "seed": seed,
        "noise": round(steps.release.noise, 3),
        "rate": round(steps.release.rate, 3),
        "steps of a client": steps.steps * session.private.times,
        "head alone": round(head.test.accuracy, 4),
        "before training": round(before.test.accuracy, 4),
        "selected": round(evaluate_adapter(session, state.model)[1].accuracy, 4),
        "last": round(evaluate_adapter(session, state.adapter)[1].accuracy, 4),
        "ledger": round(max_epsilon(session, state), 3),
    }


def max_epsilon(session: fh.Session, state: fh.RunState) -> float:
    """Return ε of what a state has released."""
    from fedhello.runs.private_heads import ledger_of

    return ledger_of(session.private, state).epsilon


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="20,5")
    parser.add_argument("--epsilons", default="8,1")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    rows = []
    for clients in map(int, asked.clients.split(",")):
        for epsilon in map(float, asked.epsilons.split(",")):
            for seed in map(int, asked.seeds.split(",")):
                rows.append(row(clients, epsilon, seed, asked.rounds, asked.epochs))
                print(rows[-1], file=sys.stderr)
    found = {"rounds": asked.rounds, "epochs": asked.epochs, "rows": rows, "versions": versions()}
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
