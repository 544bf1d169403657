from dataclasses import replace

import numpy as np
import pytest

from fedhello.client.settings import TrainingSettings
from fedhello.setup.cache import cache_notes, keeping, tiers_that_keep
from fedhello.types import Budget, Client

SETTINGS = TrainingSettings(
    rounds=1, epochs=1, batch_size=4, optimizer="sgd", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip
ROOM = 10**6


def notes(model, data, rooms, protects_samples=False, **settings):
    clients = [Client(k, 0, Budget(blocks=1, cache=room), len(data[k])) for k, room in enumerate(rooms)]
    tiers, largest = [client.budget for client in clients], data[max(data)]
    found = keeping(model, tiers, largest, replace(SETTINGS, **settings), protects_samples)
    return cache_notes(found, clients, data)


@pytest.fixture
def data(random_examples):
    return {k: random_examples(samples=10 + k, seed=k) for k in range(3)}


def test_a_cache_that_is_used_needs_no_word(tiny_model, data):
    assert notes(tiny_model(), data, [ROOM] * 3) == ()
    assert notes(tiny_model(dropout=0.1), data, [None] * 3) == ()


def test_a_cache_that_nobody_can_use_is_said(tiny_model, data):
    model = tiny_model(dropout=0.1)
    assert notes(model, data, [None, ROOM, ROOM]) == (
        "clients.tiers[].cache is not used: dropout changes the activations in each pass. Set "
        "model.frozen_dropout=false, which leaves dropout out below the lowest block that trains",
    )
    model.frozen_dropout = False
    assert notes(model, data, [ROOM] * 3) == ()
    draws = ("clients.tiers[].cache is not used, since each round draws some of the samples",)
    assert notes(model, data, [ROOM] * 3, samples=5) == draws
    assert notes(model, data, [ROOM] * 3, protects_samples=True) == draws


def test_clients_whose_samples_do_not_fit_are_counted_with_what_would_hold_them(tiny_model, data):
    model = tiny_model()
    sizes = [int(data[k].lengths().sum()) * 8 * 4 for k in range(3)]
    assert notes(model, data, sizes) == ()
    (note,) = notes(model, data, [sizes[0] - 1, ROOM, sizes[2] - 1])
    assert note.startswith("clients.tiers[].cache is too small for 2 of 3 clients")
    parts = [np.arange(10), np.arange(8), np.arange(9)]
    clients = [Client(k, k, Budget(blocks=1, cache=[sizes[0], None, 1][k]), 9) for k in range(3)]
    found = keeping(model, [client.budget for client in clients], data[0], SETTINGS, False)
    assert tiers_that_keep(found, clients, data[0], parts) == {0}
    largest = max(sizes[0], sizes[2])
    assert note.endswith(f"up to {largest / 1000:.3g} kB would hold them")
