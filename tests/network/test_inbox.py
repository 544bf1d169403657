from dataclasses import dataclass

import pytest

from fedhello.network import inbox
from fedhello.network.inbox import Inbox
from fedhello.types import Rejection, Update


@dataclass
class Asked:
    client: int
    bytes_down: int = 7


@pytest.fixture
def taker(monkeypatch):
    """An inbox of clients 0, 1 and 2 to which ``b"good"`` is an update and all else is malformed."""

    def decode(payload, expected):
        return Update(expected.client, 3, 1, {}) if payload == b"good" else Rejection(expected.client, 3, "malformed")

    monkeypatch.setattr(inbox, "decode", decode)
    return lambda wanted=None: Inbox(3, {k: Asked(k) for k in range(3)}, wanted)


def reasons(replies):
    return {reply.client: reply.reason for reply in replies}


def test_only_the_invited_count_and_each_once(taker):
    box = taker()
    stranger = box.take(9, b"good")
    assert (stranger.reason, stranger.bytes_down, stranger.bytes_up) == ("not invited", 0, 4)
    assert isinstance(box.take(1, b"good"), Update)
    assert box.take(1, b"good").reason == "duplicate"
    assert box.counted == {1}
    assert reasons(box.close()) == {0: "lost", 2: "lost"}


def test_who_was_rejected_may_try_again_until_one_counts(taker):
    box = taker()
    assert box.take(2, b"junk").reason == "malformed"
    assert reasons(box.close()) == {0: "lost", 1: "lost", 2: "malformed"}
    assert isinstance(box.take(2, b"good"), Update)
    assert reasons(box.close()) == {0: "lost", 1: "lost"}


def test_when_enough_count_the_others_are_late(taker):
    box = taker(wanted=2)
    box.take(2, b"good")
    assert not box.is_full
    box.take(0, b"good")
    late = box.take(1, b"good")
    assert box.is_full
    assert (late.reason, late.bytes_down) == ("late", 7)
    assert reasons(box.close()) == {1: "late"}
    assert [reply.client for reply in taker().close()] == [0, 1, 2]
