from dataclasses import replace

import pytest

import fedhello as fh
from fedhello.errors import PrivacyError
from fedhello.model.private_sums import PrivatePlan, PrivateStatistics
from fedhello.privacy.rounds import PrivateRounds
from fedhello.runs.private_rounds import released_round, with_lost_rounds
from fedhello.state import RunState


class Session:
    rounds = PrivateRounds(fh.Release("rounds", 2.0, 0.5), 0.5, clip=1.0)
    private = PrivatePlan(8.0, 1e-5, fh.Release("head statistics", 1.0), PrivateStatistics(), rounds, times=2)


def test_planned_rounds_are_entered_without_computing_and_others_are_checked(monkeypatch):
    pytest.importorskip("dp_accounting")
    state = RunState(0, fh.Adapter({}, {}), releases=(Session.private.head,))
    with monkeypatch.context() as patch:
        patch.setattr("fedhello.privacy.ledger.epsilon_of", None)
        for done in (1, 2):
            state = released_round(Session, state)
            assert state.releases == (Session.private.head, fh.Release("rounds", 2.0, 0.5, done))
    with pytest.raises(PrivacyError, match="to cover rounds"):
        for _ in range(1000):
            state = released_round(Session, state)
    assert state.releases[1].times > 2


def test_with_a_band_of_rounds_the_first_of_them_and_every_further_attempt_are_entered():
    rounds = replace(Session.rounds, release=fh.Release("rounds", 2.0), band=3)
    session = type("Banded", (), {"private": replace(Session.private, epsilon=100.0, rounds=rounds)})
    state, entered = RunState(0, fh.Adapter({}, {})), []
    for t, attempt in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (6, 0)):
        state = released_round(session, replace(state, round=t, attempt=attempt))
        entered.append(state.releases[-1].times)
    assert entered == [1, 1, 2, 2, 3, 3, 4]


def test_without_a_budget_for_rounds_nothing_is_entered():
    state = RunState(0, fh.Adapter({}, {}))
    session = type("Plain", (), {"private": None})
    assert released_round(session, state) is state


def test_rounds_that_a_checkpoint_does_not_know_stay_in_the_ledger():
    state = RunState(1, fh.Adapter({}, {}), releases=(Session.private.head, Session.rounds.release))
    assert with_lost_rounds(Session, state, 0) is state
    assert sum(one.times for one in with_lost_rounds(Session, state, 2).releases if one.name == "rounds") == 3
