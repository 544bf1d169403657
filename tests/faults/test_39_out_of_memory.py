"""Case 39: a client runs out of memory: it is over budget, planned smaller from then on, and the round counts."""

import pytest
import torch

from fedhello import algorithm
from fedhello.engine import local as local_module
from fedhello.methods import METHODS


def test_the_round_goes_on_and_the_next_plan_is_smaller(remote_world, monkeypatch):
    _network, engine, local = remote_world()
    train = local_module.local_training

    def fails_at_client_1(model, work, settings):
        if work.client == 1 and work.round == 0:
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB\nmore text")
        return train(model, work, settings)

    monkeypatch.setattr(local_module, "local_training", fails_at_client_1)
    method = METHODS["gd-hla"].bind(pattern="triangle")
    state = algorithm.init(local.model.snapshot(share_head=True))
    state, record = algorithm.round(state, engine.federation, method, engine.train, score=None)
    assert [(r.client, r.reason) for r in record.rejections] == [(1, "over budget")]
    assert "exceeds its own budget; the client's own log says by how much" in record.rejections[0].detail
    assert record.failed is None
    assert state.excess == {1: pytest.approx(1.25)}  # it is taken to need a quarter more than predicted
    _, record = algorithm.round(state, engine.federation, method, engine.train, score=None)
    assert [report.client for report in record.clients] == [0, 1, 2]
