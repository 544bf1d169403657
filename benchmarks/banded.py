"""Noise on the sum of all rounds: rounds whose sampling is secret, and rounds in bands, which need no secret.

    python benchmarks/banded.py > benchmarks/results/banded.json

For each federation and ε, the noise's deviation over what one client may change in a round, on the sum of all rounds
and over √T: σ of Poisson sampling; of clients that take turns with independent noise; and the same in bands.
"""

import json
import sys

from fedhello.privacy.banded import summed_noise
from fedhello.privacy.ledger import Planned, calibrated
from fedhello.runs.summarise import versions

DELTA = 1e-5
FEDERATIONS = ((200, 50, 20), (200, 10, 20), (1000, 50, 100), (1000, 10, 100), (10000, 50, 100))
"""Clients, clients a round, rounds."""


def main() -> None:
    """Compute, and print JSON."""
    rows = []
    for clients, per_round, rounds in FEDERATIONS:
        for epsilon in (8.0, 4.0, 1.0):
            band = min(clients // per_round, rounds, 32)
            (secret,) = calibrated([Planned("", 1.0, per_round / clients, rounds)], epsilon, DELTA)
            (turns,) = calibrated([Planned("", 1.0, 1.0, -(-rounds // band))], epsilon, DELTA)
            rows.append(
                {
                    "clients": clients,
                    "a round": per_round,
                    "rounds": rounds,
                    "epsilon": epsilon,
                    "band": band,
                    "poisson": round(secret.noise, 2),
                    "turns": round(turns.noise, 2),
                    "banded": round(turns.noise * summed_noise(band, rounds), 2),
                }
            )
            print(rows[-1], file=sys.stderr)
    json.dump({"delta": DELTA, "rows": rows, "versions": versions()}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
