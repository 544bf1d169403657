"""Case 64: one client sends huge finite values: no round is committed whose evaluation is not finite."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch

from fedhello.config.load import load_config
from fedhello.errors import QuorumError
from fedhello.runs import finite
from fedhello.runs.loop import _no_quorum, rounds, start
from fedhello.setup.prepare import prepare
from fedhello.state import RoundReport
from fedhello.types import Rejection, Update

PLAIN = ["train.server.name=none", "train.selection=last", "train.measure_memory=false", "train.rounds=2",
         "train.quorum=0.5", "model.head=aggregate", "method.name=full"]  # fmt: skip


@pytest.fixture
def attacked(workplace):
    """A session in which some clients send one value everywhere."""

    def build(clients=(0,), value=3e38, words=()):
        with contextlib.chdir(workplace):
            session = prepare(load_config(workplace / "tiny.yaml", [*PLAIN, *words]))
        train = session.engine.train

        def forged(tasks, heads=None):
            for reply in train(tasks, heads):
                if isinstance(reply, Update) and reply.client in clients:
                    reply = replace(reply, tensors={n: torch.full_like(x, value) for n, x in reply.tensors.items()})
                yield reply

        session.engine.train = forged
        return session

    return build


def played(session):
    return list(rounds(session, start(session).state))


@pytest.mark.parametrize("every", [1, 2])
def test_the_round_is_undone_attempted_again_without_the_outlier_and_committed(attacked, every):
    session = attacked(words=[f"train.evaluate_every={every}"])
    found = played(session)
    undone = [record for _, record in found if record.report.failed is not None]
    done = [(state, record) for state, record in found if record.report.failed is None]
    assert [record.report.round for _, record in done] == [0, 1]
    assert undone
    assert all(finite.FAILED in record.report.failed for record in undone)
    assert "client 0 sent values of up to 3e+38" in undone[0].report.flags[-1]
    assert "lower train.lr" not in undone[0].report.flags[-1]
    for state, record in done:
        assert record.validation is None or math.isfinite(record.validation.loss)
        assert bool(session.losses(state.adapter).isfinite().all())
        assert 0 not in [client.client for client in record.report.clients]


def test_before_such_a_round_was_committed(attacked, monkeypatch):
    """Without the check, as it was: the loss is not a number, and training goes on from there."""
    monkeypatch.setattr(finite.FiniteRounds, "is_sound", lambda *arguments: True)
    session = attacked()
    state, record = next(rounds(session, start(session).state))
    assert (state.round, record.report.failed) == (1, None)
    assert not math.isfinite(record.validation.loss)


def test_a_million_everywhere_is_shortened_where_three_answer(attacked):
    """Values that the door lets through, without a line search; before, honest clients could no longer train."""
    everyone = ["train.clients_per_round=4", "train.rounds=4", "train.quorum=1"]
    with pytest.raises(QuorumError, match=r"[0-3] of 4 updates count"):  # on some CPUs not all of them lose their way
        played(attacked(value=1e6, words=[*everyone, "defence.max_norm=null"]))
    honest, found = played(attacked(clients=(), words=everyone)), played(attacked(value=1e6, words=everyone))
    assert [record.report.failed for _, record in found] == [None] * 4
    for (_, expected), (state, record) in zip(honest, found, strict=True):
        assert any("client 0 moved the model" in flag for flag in record.report.flags)
        assert record.validation.loss < expected.validation.loss + 0.05
        assert max(float(value.abs().max()) for value in state.adapter.tensors.values()) < 10


def test_where_all_clients_diverge_the_run_ends_and_says_what_to_lower(attacked):
    with pytest.raises(QuorumError, match=r"no client's values stand out; lower train\.lr"):
        played(attacked(clients=range(100)))


def test_where_most_clients_values_are_out_of_bounds_a_setting_is_named(attacked):
    large = ["train.lr=1e15", "train.optimizer=sgd", "model.train_head=true", "train.retries=1"]
    steps = r"Most clients' steps are too large: lower train\.lr, or model\.lora\.alpha"
    with pytest.raises(QuorumError, match=rf"out of bounds: expected values of at most 1e\+06.*{steps}"):
        played(attacked(clients=(), words=large))
    session = attacked(clients=())
    begun = start(session).state
    grown = replace(begun.adapter, tensors={n: torch.full_like(x, 9e5) for n, x in begun.adapter.tensors.items()})
    rejections = tuple(Rejection(k, 0, "out of bounds", "too large", 0, 0) for k in range(3))
    record = RoundReport(1, (), (), None, False, rejections=rejections, failed="0 of 3 updates count")
    assert "reach 9e+05 already: resume from an earlier checkpoint, lower train.server.lr" in str(
        _no_quorum(record, grown, str)
    )
    mixed = replace(record, rejections=(*rejections[:1], *(replace(r, reason="lost") for r in rejections[1:])))
    assert "Fix what the clients report" in str(_no_quorum(mixed, grown, str))
