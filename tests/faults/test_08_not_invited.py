"""Case 8: a client that was not asked, or that speaks for another."""

import pytest

from fedhello.network.inbox import Inbox


def test_who_was_not_asked_is_not_heard(letter):
    inbox = Inbox(5, {3: letter.expected})
    rejection = inbox.take(4, letter.good)
    assert (rejection.client, rejection.reason, rejection.bytes_up) == (4, "not invited", len(letter.good))
    assert inbox.counted == set()
    assert [(r.client, r.reason) for r in inbox.close()] == [(3, "lost")]


@pytest.mark.parametrize("client", [4, -3, 3.0, "3", None, [3], True])
def test_who_states_another_client_is_refused(letter, client):
    expected = {"client": 1} if client is True else {}
    assert letter.reason(letter.write(header=letter.header(client=client)), **expected) == "not invited"
