"""Drift compensation works on the server's validation and proxy samples, in an order that follows from the seed."""

import numpy as np

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.setup.drift import drift_compensation


def test_it_is_made_of_the_servers_samples_in_an_order_of_the_seed(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    words = ["model.pooling=mean", "model.head=solved", "method.name=full", "data.proxy=10"]
    session = fh.prepare(load_config(workplace / "tiny.yaml", words))
    found = [
        drift_compensation(
            load_config(workplace / "tiny.yaml", [*words, f"run.seed={seed}"]), session.model, session.server, False
        )
        for seed in (0, 0, 1)
    ]
    server = session.server
    assert sum(map(len, found[0].parts)) == len(server.validation) + len(server.proxy)
    assert sorted(found[0].order) == list(range(len(found[0].order)))
    assert np.array_equal(found[0].order, found[1].order) and not np.array_equal(found[0].order, found[2].order)
