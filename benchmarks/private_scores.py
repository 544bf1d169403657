"""How well Fisher scores under differential privacy rank the blocks, on the demo with more clients.

    python benchmarks/private_scores.py [--clients 200] [--per-round 50] > benchmarks/results/private_scores.json

Every client computes its scores once, under the initial adapter; nothing trains. ``plain`` is Γ over all clients
without privacy. A draw takes a Poisson sample of clients, their shares and the noise of ``--times`` such releases for
a budget of ε at δ = 1e-5. Γ of a draw is compared with ``plain`` by Kendall's τ over the blocks, and by how many of the
blocks that FIM-HLA gives to clients are the same. ε ``null`` is a sample of that size without noise.
"""

import argparse
from statistics import mean

import numpy as np
from scipy.stats import kendalltau

import fedhello as fh
from fedhello.client.scoring import ScoreRequest, as_shares, mean_scores
from fedhello.privacy.ledger import Planned, calibrated
from fedhello.privacy.rounds import released_scores
from fedhello.state import Release
from runs import show

EPSILONS = (8.0, 4.0, 2.0, 1.0, 0.5, None)
DELTA = 1e-5


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--per-round", type=int, default=50)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--draws", type=int, default=100)
    asked = parser.parse_args()
    words = {"method.name": "fim-hla", "method.scores": "clients", "data.clients": asked.clients}
    session = fh.prepare(
        None,
        words
        | {"data.partition.minimum": 2, "train.clients_per_round": asked.per_round, "train.measure_memory": False},
    )
    federation, adapter = session.federation, fh.start(session).state.adapter
    request = ScoreRequest(adapter, federation.clients, 0, 0, session.method.scoring.samples)
    sums = [reply.sums for reply in session.engine.block_scores(request) if reply.sums is not None]
    plain, shares = mean_scores(sums), [as_shares(one).squares for one in sums]
    rate, rng = asked.per_round / asked.clients, np.random.default_rng(0)

    def allocated(scores: tuple[float, ...]) -> list[set[int]]:
        given = (session.method.allocate(fh.AllocationContext(k, federation, 0, scores)) for k in federation.clients)
        return [set(one.blocks) for one in given if one is not None]

    ours = allocated(plain)
    rows = {}
    for epsilon in EPSILONS:
        (release,) = (
            calibrated([Planned("scores", 1.0, rate, asked.times)], epsilon, DELTA)
            if epsilon
            else (Release("", 1e-12, rate),)
        )
        taus, same = [], []
        for _ in range(asked.draws):
            came = [share for share, inside in zip(shares, rng.random(len(shares)) < rate, strict=True) if inside]
            found = released_scores(came, release, federation.num_blocks, asked.per_round)
            taus.append(float(kendalltau(plain, found).statistic))
            pairs = list(zip(ours, allocated(found), strict=True))
            same.append(sum(len(a & b) for a, b in pairs) / sum(len(a) for a, _ in pairs))
        rows[str(epsilon)] = {
            "noise": round(release.noise, 3),
            "Kendall's τ": round(mean(taus), 3),
            "same blocks": round(mean(same), 3),
        }
    everyone = released_scores(shares, Release("", 1e-12), federation.num_blocks, asked.clients)
    equal = allocated((1.0,) * federation.num_blocks)
    show(
        vars(asked)
        | {
            "plain": [round(value / sum(plain), 4) for value in plain],
            "mean shares": [round(value, 4) for value in everyone],
            "same blocks with equal scores": round(
                sum(len(a & b) for a, b in zip(ours, equal, strict=True)) / sum(map(len, ours)), 3
            ),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
