"""Case 19: nobody's update counts: the attempt is recorded, the model stays; after some the run ends with a number."""

import json

import pytest
import torch

from fedhello.algorithm import init, round, sample_clients
from fedhello.errors import QuorumError
from fedhello.methods import METHODS
from fedhello.types import Adapter, Rejection, Update


@pytest.mark.parametrize("name", sorted(name for name, how in METHODS.items() if not how.server_alone))
def test_a_failed_attempt_changes_nothing_but_its_number(toy, name):
    """With every method that asks clients: two of three replies count, and three must."""
    world, _ = toy(clients=3, quorum=3, rank=2)
    tensors = {f"{b}.q.lora_A.weight": torch.randn(2, 3) for b in range(2)}
    tensors |= {f"{b}.q.lora_B.weight": torch.randn(3, 2) for b in range(2)}
    adapter = Adapter(tensors, {n: int(n[0]) for n in tensors})

    def train(tasks):
        for task in tasks:
            values = {n: task.adapter.tensors[n] + 1 for n in task.adapter.names(task.allocation)}
            lost = Rejection(task.client, task.round, "lost", bytes_down=7)
            yield lost if task.client == 1 else Update(task.client, task.round, 10, values, {"batches": 1.0})

    def play(state):
        return round(state, world, METHODS[name].bind(), train, lambda *_: (1.0, 2.0), lambda models, *_: models)

    before = init(adapter)
    state, record = play(before)
    assert record.failed == "2 of 3 updates count; the quorum is 3"
    assert (record.attempt, [r.client for r in record.rejections]) == (0, [1])
    assert (state.round, state.attempt) == (0, 1)
    assert state.adapter is before.adapter
    assert state.method_state is before.method_state
    again, record = play(state)
    assert (again.attempt, record.attempt) == (2, 1)


def test_each_attempt_has_another_sample_and_a_commit_starts_counting_anew(toy):
    world, adapter = toy(clients=10, clients_per_round=3, quorum=3)
    calls = []

    def train(tasks):
        tasks = list(tasks)
        calls.append(tuple(task.client for task in tasks))
        for task in tasks:
            values = {n: v + 1 for n, v in task.adapter.tensors.items()}
            yield Rejection(task.client, 0, "lost") if len(calls) < 3 else Update(task.client, 0, 10, values)

    state = init(adapter)
    for _ in range(3):
        state, _ = round(state, world, METHODS["full"].bind(), train, None)
    assert len(set(calls)) == 3
    assert (state.round, state.attempt) == (1, 0)
    assert calls[1] == tuple(k.id for k in sample_clients(world, 0, 1))


def test_clients_that_sit_out_by_plan_are_not_missed(toy):
    world, _ = toy(clients=10, quorum=5)
    assert [world.enough(asked) for asked in (10, 4, 2, 1, 0)] == [5, 2, 1, 1, 0]


@pytest.fixture
def shaken(workplace, call, monkeypatch):
    """Run the tiny demo with an engine whose clients fail as long as a condition holds."""

    def run(name, fails, *words):
        from fedhello.engine import local

        real = local.local_training

        def training(model, work, settings):
            if fails(work):
                raise OSError("no data here")
            return real(model, work, settings)

        monkeypatch.setattr(local, "local_training", training)
        found = call(workplace, "run", "tiny.yaml", f"run.name={name}", "train.quorum=1", *words)
        folder = workplace / "runs" / name
        rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        return found, rounds, json.loads((folder / "summary.json").read_text()), (folder / "log.txt").read_text()

    return run


def test_after_so_many_failed_attempts_the_run_ends_with_the_reasons(shaken):
    (code, _, err), rounds, summary, log = shaken("end", lambda work: work.round == 1, "train.retries=2")
    assert code == QuorumError.exit_code == 9
    assert "found 2 failed attempts" in err
    assert "failed: OSError: no data here" in err
    assert [(r["round"], r["attempt"], r["failed"] is None) for r in rounds] == [
        (0, 0, True),
        (1, 0, False),
        (1, 1, False),
    ]
    assert rounds[1]["test"] == rounds[0]["test"], "nothing has changed"
    assert (summary["status"], summary["rounds"], summary["failed_attempts"]) == ("failed", 1, 2)
    assert summary["rejections"] == {"failed": 4}
    assert "round 2, attempt 2 failed, the state has not changed: 0 of 2 updates count; the quorum is 2" in log
    assert "round 2: 2 of 2 replies do not count: client" in log


def test_a_run_that_recovers_goes_on_to_its_end(shaken):
    tries = []

    def fails(work):
        tries.append(work.client)
        return work.round == 1 and len(tries) < 5

    (code, out, _), rounds, summary, _ = shaken("recovers", fails)
    assert code == 0
    assert [(r["round"], r["failed"] is None) for r in rounds] == [(0, True), (1, False), (1, True)]
    assert (summary["status"], summary["rounds"], summary["failed_attempts"]) == ("finished", 2, 1)
    assert "2 of 2 replies do not count" in out
