"""A run that started from an adapter goes on without it, as it would have gone on with it."""

import shutil

import pytest

import fedhello as fh

WORDS = {"train.measure_memory": False, "model.pooling": "mean"}


class Stop(fh.Callback):
    def __init__(self, at):
        self.at = at

    def on_start(self, session, start):
        return start.state.round == self.at

    def on_round(self, state, record):
        return state.round == self.at


@pytest.mark.parametrize(("policy", "at"), [("solved", 0), ("solved", 1), ("aggregate", 1)])
def test_a_run_goes_on_without_the_adapter_that_it_started_from(place, policy, at):
    fh.run("tiny.yaml", WORDS | {"run.name": "first", "train.rounds": 1, "model.head": policy})
    words = WORDS | {"train.rounds": 2, "model.adapter": "runs/first", "model.head": policy, "train.lr": 0.05}
    whole = fh.run("tiny.yaml", words | {"run.name": "whole"})
    cut = fh.run("tiny.yaml", words | {"run.name": "cut"}, callbacks=[Stop(at)])
    assert cut.summary.rounds == at
    shutil.rmtree("runs/first")
    again = fh.resume("runs/cut")
    weights = [(run.path / "adapter" / "adapter_model.safetensors").read_bytes() for run in (whole, again)]
    assert weights[0] == weights[1]
    assert again.summary.final_scores == whole.summary.final_scores
    assert again.session.keeps_head == whole.session.keeps_head
    said = "the adapter in runs/first is not there any more; the run goes on from its checkpoint"
    assert any(note.startswith(said) for note in again.summary.notes)


def test_personal_heads_need_the_first_head(place):
    fh.run("tiny.yaml", WORDS | {"run.name": "first", "train.rounds": 1})
    words = WORDS | {"train.rounds": 2, "model.adapter": "runs/first", "model.head": "local"}
    fh.run("tiny.yaml", words | {"run.name": "cut", "train.loss": "cross_entropy"}, callbacks=[Stop(1)])
    shutil.rmtree("runs/first")
    with pytest.raises(fh.ModelError, match=r"expected model\.adapter to be a folder"):
        fh.resume("runs/cut")
