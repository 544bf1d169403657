"""What follows from a session's settings without anything being run."""

from dataclasses import FrozenInstanceError, replace

import pytest
from handmade import SETTINGS

import fedhello as fh
from fedhello.session import ClientEntry, Session, is_scored_after


@pytest.mark.parametrize(
    ("rounds", "every", "expected"),
    [(4, 1, [0, 1, 2, 3, 4]), (5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (3, 10, [0, 3]), (0, 3, [0])],
)
def test_the_start_every_nth_and_the_last_round_are_scored(rounds, every, expected):
    settings = replace(SETTINGS, rounds=rounds, evaluate_every=every)
    assert [done for done in range(rounds + 1) if settings.is_scored_after(done)] == expected
    assert [done for done in range(rounds + 1) if is_scored_after(done, rounds, every)] == expected


def test_tiers_are_in_the_order_of_the_ids_and_nothing_can_be_changed():
    roster = tuple(ClientEntry(k, tier, 10, {"a": 10}) for k, tier in enumerate((2, 0, 1)))
    session = object.__new__(Session)
    object.__setattr__(session, "roster", roster)
    assert session.tier_of == (2, 0, 1)
    with pytest.raises(FrozenInstanceError):
        session.notes = ()


def test_a_client_on_another_machine_has_a_name_beside_its_id():
    facts = ({"name": "hospital-a"}, None)
    session = object.__new__(Session)
    roster = tuple(ClientEntry(k, 0, 10, {"a": 10}, fact) for k, fact in enumerate(facts))
    object.__setattr__(session, "roster", roster)
    assert [session.called(k) for k in (0, 1, 7)] == ["client 0 (hospital-a)", "client 1", "client 7"]


def test_a_prepared_session_agrees_with_itself(place):
    session = fh.prepare("tiny.yaml", {"data.clients": 5, "model.head": "aggregate"})
    assert [entry.client for entry in session.roster] == list(range(5))
    assert session.histogram.shape == (5, len(session.labels))
    for entry, row in zip(session.roster, session.histogram, strict=True):
        assert entry.samples == row.sum() == sum(entry.labels.values())
        assert [entry.labels.get(label, 0) for label in session.labels] == row.tolist()
    assert {client.id: client.tier for client in session.federation.clients} == dict(enumerate(session.tier_of))
    losses = session.losses(session.model.snapshot(share_head=True))
    assert losses.shape == (len(session.server.validation),)
    assert bool((losses >= 0).all())
