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
        (10**6, ["run.engine=flower"], 1),
    ],
)
def test_scoring_takes_its_share_of_the_work(federation, evaluated, words, expected):
    found, notes = every(federation, evaluated, *words)
    assert found == expected
    assert bool(notes) == (expected > 1 and "train.evaluate_every=2" not in words)


def test_a_client_that_draws_some_of_its_samples_counts_with_as_many(federation):
    """As the one client of a centralised run does."""
    world = federation([2], blocks=2)
    world = replace(world, clients=(replace(world.clients[0], samples=2000),))
    config = load_config(None, [*PLAIN, "train.clients_per_round=1"])
    assert [scored_every(config, world, 1000, most)[0] for most in (None, 500)] == [1, 4]
