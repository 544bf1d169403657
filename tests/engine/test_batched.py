"""Runs of the batched engine are those of the local one but for rounding."""

import pytest
import torch

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.engine.batched import BatchedEngine

RANKS = "clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 4}]"
USUAL = ["train.rounds=2", "train.clients_per_round=4", "train.quorum=0.3", "train.measure_memory=false"]
PLAIN = ["train.optimizer=sgd", "train.lr=0.01"]
"""AdamW divides a gradient of zero but for rounding by its size, and so makes rounding large."""


def played(place, engine, words):
    session = fh.prepare(load_config(place / "tiny.yaml", [*USUAL, *PLAIN, f"run.engine={engine}", *words]))
    for module in session.model.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):  # of attention
            module.dropout_prob = 0.0
    state, replies = fh.start(session).state, []
    for after, record in fh.rounds(session, state):
        state = after
        replies.append([(client.client, client.bytes_up, client.bytes_down) for client in record.report.clients])
    heads = {f"{k}/{n}": v for k, head in (state.personal_heads or {}).items() for n, v in head.items()}
    return session, replies, {**state.adapter.tensors, **heads}


@pytest.mark.parametrize(
    "words",
    [
        ["method.name=fed-hello"],
        ["method.name=flora", RANKS],
        ["method.name=rgd-hla", "model.head=local"],
        ["method.name=rgd-hla", "train.scaffold=true", "model.head=aggregate"],
        ["method.name=rgd-hla", "run.workers=2", "clients.dropout=0.2"],
        ["method.name=rgd-hla", "privacy.secure=true"],
    ],
    ids=lambda words: " ".join(word.split("=")[1] for word in words[:2])[:20],
)
def test_a_run_is_that_of_the_local_engine(place, words, monkeypatch):
    sizes, train = [], BatchedEngine._together
    monkeypatch.setattr(
        BatchedEngine, "_together", lambda self, tasks, heads: (sizes.append(len(tasks)), train(self, tasks, heads))[1]
    )
    _, replies, tensors = played(place, "local", [word for word in words if "workers" not in word])
    session, others, again = played(place, "batched", words)
    assert isinstance(getattr(session.engine, "inner", session.engine), BatchedEngine)
    assert any("share each pass" in note for note in session.notes)
    assert max(sizes) > 1 and ("run.workers=2" not in words or max(sizes) == 2)
    assert replies == others
    assert tensors.keys() == again.keys()
    for name, value in tensors.items():
        assert torch.allclose(value, again[name], rtol=1e-4, atol=1e-6), name


def test_a_pass_that_fails_is_taken_by_fewer(place, monkeypatch, caplog):
    """The error of one client is its rejection; the others train."""
    real = BatchedEngine._assignment

    def assignment(self, task, client, names):
        found = real(self, task, client, names)
        if client.id == gone:
            monkeypatch.setattr(type(found.data), "batch", lambda self, at: broken(found.data, self, at))
        return found

    session = fh.prepare(load_config(place / "tiny.yaml", [*USUAL, "run.engine=batched", "method.name=full"]))
    (_, first), *_ = list(fh.rounds(session, fh.start(session).state))
    gone = first.report.clients[0].client
    batch = type(session.engine.data[gone]).batch

    def broken(bad, data, at):
        if data is bad:
            raise RuntimeError("its disk is gone")
        return batch(data, at)

    monkeypatch.setattr(BatchedEngine, "_assignment", assignment)
    (_, record), *_ = list(fh.rounds(session, fh.start(session).state))
    assert [(r.client, r.detail) for r in record.report.rejections] == [(gone, "RuntimeError: its disk is gone")]
    assert [one.client for one in record.report.clients] == [c.client for c in first.report.clients if c.client != gone]
    assert "train in smaller groups" in caplog.text
