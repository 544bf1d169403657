"""What engines tell within a round, and that nothing in a run depends on whether anybody listens."""

import os

import pytest
import torch

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.engine.observer import NOBODY, Observer, StepBoard, phase_after
from fedhello.types import Rejection, Update

WORDS = ["model.pooling=mean", "model.head=solved", "method.name=full", "train.clients_per_round=2", "train.epochs=2"]


class Ears(Observer):
    def __init__(self):
        self.heard = []

    def on_asked(self, client):
        self.heard.append(("asked", client))

    def on_phase(self, phase):
        self.heard.append(phase)

    def on_client(self, client, phase):
        self.heard.append((client, phase))

    def on_step(self, client, step, steps):
        self.heard.append((client, step, steps))


def two_rounds(place, words, observer, monkeypatch):
    monkeypatch.chdir(place)
    session = fh.prepare(load_config(place / "tiny.yaml", [*WORDS, *words]))
    session.engine.observer = observer
    return list(fh.rounds(session))


@pytest.mark.parametrize("words", [[], ["run.workers=2"], ["run.engine=batched", "run.workers=2"]])
def test_every_step_is_told_and_changes_no_bit(workplace, words, monkeypatch):
    ears = Ears()
    heard = two_rounds(workplace, words, ears, monkeypatch)
    silent = two_rounds(workplace, words, NOBODY, monkeypatch)
    for (a, _), (b, _) in zip(heard, silent, strict=True):
        assert a.adapter.tensors.keys() == b.adapter.tensors.keys()
        assert all(torch.equal(value, b.adapter.tensors[name]) for name, value in a.adapter.tensors.items())
    clients = [one.client for one in heard[0][1].report.clients]
    assert [one[1] for one in ears.heard if one[0] == "asked"][: len(clients)] == clients
    first = ears.heard[: ears.heard.index("aggregating")]
    steps = {k: [one[1:] for one in first if isinstance(one, tuple) and len(one) == 3 and one[0] == k] for k in clients}
    for report in heard[0][1].report.clients:
        (*_, last), total = steps[report.client], int(report.metrics["steps"])
        assert last == (total, total)
        assert (report.client, "sent") in first
        if "run.workers=2" not in words:
            assert steps[report.client] == [(step, total) for step in range(total + 1)]
    assert [one for one in ears.heard if isinstance(one, str)] == [
        "heads", "scoring", "training", "aggregating", "scoring", "training", "aggregating", "heads",
    ]  # fmt: skip
    # What has been scored is not scored again.


def test_a_copy_of_the_process_tells_through_shared_memory():
    ears, board = Ears(), StepBoard(2)
    for client in (7, 3):
        board.add(client)
    if (child := os.fork()) == 0:
        board.on_step(3, 20, 60)
        os._exit(0)
    os.waitpid(child, 0)
    board.tell(ears)
    board.tell(ears)
    assert ears.heard == [(3, 20, 60)]


def test_what_a_reply_says_of_its_client():
    told = {reason: phase_after(Rejection(0, 0, reason)) for reason in ("late", "lost", "not finite", "failed")}
    assert told == {"late": "late", "lost": "lost", "not finite": "rejected", "failed": "rejected"}
    assert phase_after(Update(0, 0, 1, {}, {})) == "sent"


def test_nobody_does_nothing():
    for call in (
        lambda: NOBODY.on_attempt(0, 0),
        lambda: NOBODY.on_asked(0),
        lambda: NOBODY.on_phase("training"),
        lambda: NOBODY.on_client(0, "sent"),
        lambda: NOBODY.on_step(0, 1, 2),
        lambda: NOBODY.on_connected({0: "a"}),
    ):
        assert call() is None
