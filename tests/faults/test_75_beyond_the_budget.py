"""Case 75: a client does not train beyond the budget that its owner states, whatever the server asks for."""

import pytest
from hostile import client_of, told_at, work_for

from fedhello.allocation.needs import needs
from fedhello.types import Allocation


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


ALL = (0, 1, 2)


@pytest.fixture
def untrained(monkeypatch):
    def trains(*_):
        pytest.fail("it trains")

    def forbid():
        monkeypatch.setattr("fedhello.engine.local.local_training", trains)

    return forbid


@pytest.mark.parametrize("budget", [{"blocks": 1}, {"rank": 1}, {"seconds": 1e-9}, {"upload": 1000}])
def test_a_task_beyond_a_limit_is_refused_before_training(place, untrained, budget):
    worker, ready = client_of(budget=budget)
    assert "facts" in worker.answer("join", told_at(place))
    before = ready.client.model.snapshot(share_head=True).tensors
    untrained()
    assert worker.answer("train", work_for(ready.client, ALL)) == {"error": "over budget"}
    after = ready.client.model.snapshot(share_head=True).tensors
    assert all(after[name].equal(value) for name, value in before.items())


def test_a_task_beyond_the_predicted_memory_is_refused(place, untrained):
    worker, ready = client_of(budget={"memory": 10**9})
    worker.answer("join", told_at(place))
    whole = needs(ready.client.limits.costs, Allocation(ALL)).memory_bytes
    worker, ready = client_of(budget={"memory": int(whole / 1.3)})
    assert "facts" in worker.answer("join", told_at(place))
    untrained()
    assert worker.answer("train", work_for(ready.client, ALL)) == {"error": "over budget"}


DORA = {"lora": {"rank": 4, "alpha": 4, "dora": True}}


@pytest.mark.parametrize("limit", ["memory", "upload"])
def test_a_task_with_magnitudes_is_checked_by_what_it_is_predicted_to_take(place, untrained, limit):
    worker, ready = client_of(budget={"memory": "1GB"})
    worker.answer("join", told_at(place, model=DORA))
    assert any("magnitude" in name for name in ready.client.model.snapshot(share_head=True).tensors)
    whole = needs(ready.client.limits.costs, Allocation(ALL))
    most = {"memory": int(whole.memory_bytes / 1.3), "upload": whole.upload_bytes - 1}[limit]
    worker, ready = client_of(budget={limit: most})
    assert "facts" in worker.answer("join", told_at(place, model=DORA))
    untrained()
    assert worker.answer("train", work_for(ready.client, ALL)) == {"error": "over budget"}


def test_a_task_within_the_budget_is_trained(place):
    worker, ready = client_of(budget={"blocks": 2, "rank": 4, "memory": "1GB", "seconds": 100, "upload": "1MB"})
    worker.answer("join", told_at(place))
    assert "update" in worker.answer("train", work_for(ready.client, (1, 2)))
    assert worker.answer("train", work_for(ready.client, ALL)) == {"error": "over budget"}


def test_one_component_is_rank_one(place):
    worker, ready = client_of(budget={"rank": 1})
    worker.answer("join", told_at(place))
    assert "error" not in worker.answer("train", work_for(ready.client, ALL, components=(2,)))
    assert worker.answer("train", work_for(ready.client, ALL, components=(1, 2))) == {"error": "over budget"}


def test_a_pass_for_scores_keeps_to_the_memory_too(place):
    worker, ready = client_of(budget={"memory": "18MB"})
    worker.answer("join", told_at(place))
    work = work_for(ready.client, ()) | {"samples": 4}
    assert "scores" in worker.answer("scores", work | {"batch_size": 1})
    assert worker.answer("scores", work | {"batch_size": 4096}) == {"error": "over budget"}
