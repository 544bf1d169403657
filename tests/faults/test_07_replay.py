"""Case 7: the same update twice in a round counts once."""

from dataclasses import replace

from fedhello.engine.wire import encode_update
from fedhello.network.inbox import Inbox
from fedhello.types import Rejection, Update


def test_a_second_copy_is_a_duplicate_and_changes_nothing(letter):
    inbox = Inbox(5, {3: letter.expected})
    assert isinstance(inbox.take(3, letter.good), Update)
    for _ in range(2):
        again = inbox.take(3, letter.good)
        assert (again.client, again.round, again.reason, again.bytes_up) == (3, 5, "duplicate", len(letter.good))
    assert (inbox.counted, inbox.close()) == ({3}, ())


def test_another_update_of_the_same_client_is_a_duplicate_too(letter):
    inbox = Inbox(5, {3: letter.expected})
    inbox.take(3, letter.good)
    other = {name: value + 1 for name, value in letter.tensors.items()}
    assert inbox.take(3, encode_update(replace(letter.update, tensors=other), "this run")).reason == "duplicate"


def test_a_client_whose_message_was_damaged_may_send_it_again(letter):
    inbox = Inbox(5, {3: letter.expected})
    assert inbox.take(3, letter.good[:-1]).reason == "checksum"
    assert [rejection.reason for rejection in inbox.close()] == ["checksum"]
    assert isinstance(inbox.take(3, letter.good), Update)
    assert inbox.close() == ()


def test_the_first_count_and_the_rest_is_late(letter):
    def asked(k):
        return replace(letter.expected, client=k, bytes_down=100 + k)

    def sent(k):
        return encode_update(replace(letter.update, client=k), "this run")

    inbox = Inbox(5, {k: asked(k) for k in range(4)}, wanted=2)
    assert [type(inbox.take(k, sent(k))) for k in (3, 0, 1)] == [Update, Update, Rejection]
    assert [(r.client, r.reason, r.bytes_down, r.bytes_up) for r in inbox.close()] == [
        (1, "late", 101, len(sent(1))),
        (2, "late", 102, 0),
    ]
    assert [r.reason for r in Inbox(5, {k: asked(k) for k in range(4)}, wanted=2).close()] == ["lost"] * 4
