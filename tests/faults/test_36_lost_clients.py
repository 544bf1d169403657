"""Case 36: clients lost at random: rounds commit by quorum, or are attempted again with another sample."""

import json
from dataclasses import replace

import pytest

from fedhello import algorithm
from fedhello.engine.local import LocalEngine
from fedhello.methods import METHODS
from fedhello.types import Allocation, Task

CHANCES = [0.1, 0.33, 0.5, 0.9]


@pytest.fixture
def engine(tiny_model, random_examples, federation, local_settings):
    def build(dropout, clients=10, seed=0, **changes):
        world = replace(federation([1] * clients, blocks=2, seed=seed), **changes)
        data = random_examples(samples=4)
        everyone = dict.fromkeys(range(clients), data)
        return LocalEngine(tiny_model(blocks=2), world, everyone, replace(local_settings, epochs=1), dropout=dropout)

    return build


@pytest.mark.parametrize("dropout", CHANCES)
def test_each_client_is_lost_as_often_as_it_is_said_and_repeatably(engine, dropout):
    e = engine(dropout)
    adapter = e.model.snapshot(share_head=True)

    def lost(t, attempt=0):
        tasks = [Task(k, t, Allocation((0,)), adapter, attempt=attempt) for k in range(10)]
        return [e._lost(task) is not None for task in tasks]

    found = [lost(t) for t in range(200)]
    for k in range(10):
        share = sum(row[k] for row in found) / 200
        assert abs(share - dropout) < 0.15  # four standard deviations at one half
    assert found == [lost(t) for t in range(200)]
    assert any(lost(t) != lost(t, attempt=1) for t in range(10)), "another attempt, another draw"


@pytest.mark.parametrize("dropout", CHANCES)
def test_a_round_commits_exactly_when_the_quorum_is_met(engine, dropout):
    e = engine(dropout, clients_per_round=5, quorum=3)
    state = algorithm.init(e.model.snapshot(share_head=True))
    for _ in range(8):
        before = state
        state, record = algorithm.round(state, e.federation, METHODS["full"].bind(), e.train, None)
        assert len(record.clients) + len(record.rejections) == 5
        assert {r.reason for r in record.rejections} <= {"lost"}
        assert all(r.bytes_down > 0 and r.bytes_up == 0 for r in record.rejections)
        committed = len(record.clients) >= 3
        assert (record.failed is None) == committed
        assert (state.round, state.attempt) == (
            (before.round + 1, 0) if committed else (before.round, before.attempt + 1)
        )
        assert committed or state.adapter is before.adapter


def test_a_third_lost_in_every_round_the_run_finishes_and_repeats(workplace, call):
    def run(name):
        words = ["clients.dropout=0.33", "train.rounds=4", "train.retries=10", "train.clients_per_round=4"]
        code, out, err = call(workplace, "run", "tiny.yaml", f"run.name={name}", *words)
        assert code == 0, err
        folder = workplace / "runs" / name
        return (
            json.loads((folder / "summary.json").read_text()),
            (folder / "adapter/adapter_model.safetensors").read_bytes(),
            out,
        )

    (summary, adapter, out), (_, again, _) = run("third"), run("third-again")
    assert summary["rejections"]["lost"] > 0
    assert summary["rounds"] == 4
    assert "replies do not count: client" in out
    assert adapter == again


def test_without_losses_and_over_selection_nobody_is_drawn_otherwise(federation):
    """What was recorded before there were either repeats bit for bit."""
    world = federation([1] * 10, blocks=2, clients_per_round=4)
    assert [k.id for k in algorithm.sample_clients(world, 0)] == [0, 2, 8, 9]
    assert [k.id for k in algorithm.sample_clients(world, 1)] == [1, 6, 7, 9]
