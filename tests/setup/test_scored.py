"""How often a run is scored: as rarely as needed for its share of the work, and as often as its figures need."""

from dataclasses import replace

import pytest

from fedhello.config.load import load_config
from fedhello.setup.scored import scored_every

PLAIN = ["model.head=aggregate", "train.selection=last", "train.rounds=40"]


def every(federation, evaluated, *words, samples=100):
    found = federation([1] * 10, blocks=2, clients_per_round=2)
    clients = tuple(replace(client, samples=samples) for client in found.clients)
    return scored_every(load_config(None, [*PLAIN, *words]), replace(found, clients=clients), evaluated)


@pytest.mark.parametrize(
    ("evaluated", "words", "expected"),
    [
        (100, [], 1),
        (250, [], 3),  # a round is 2 clients × 100 samples × 3 passes: 250/(250 + 2·600) > 15 %
        (10**6, [], 8),  # five of 40 rounds
        (10**6, ["train.rounds=4"], 1),
        (250, ["train.epochs=3"], 1),
        (10**6, ["train.evaluate_every=2"], 2),
        (10**6, ["train.selection=validation", "model.head=solved"], 1),
    ],
)
def test_scoring_takes_its_share_of_the_work(federation, evaluated, words, expected):
    found, notes = every(federation, evaluated, *words)
    assert found == expected
    assert bool(notes) == (expected > 1 and "train.evaluate_every=2" not in words)
