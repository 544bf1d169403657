import json

import pytest

from fedhello.errors import UpdateError
from fedhello.network.messages import Failure
from fedhello.network.registry import SLOWEST, Arrival, read_client_info
from network import remote_facts


def test_no_client_is_taken_for_slower_than_can_be():
    assert Arrival(1, remote_facts(0, 10), 1e9).rate == SLOWEST


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc"}, {"name": ""}, {"samples": 0}, {"samples": 10**12}, {"samples": True}, {"samples": 3.5},
        {"classes": (1, 0)}, {"classes": (0, 7)}, {"batches": ()}, {"widest": (0, 1)}, {"speed": float("nan")},
        {"speed": 0.0}, {"speed": 1e-300}, {"busy": -1.0}, {"budget": {"memory": 0}}, {"more": 1},
    ],
)  # fmt: skip
def test_facts_that_are_none_are_refused(change):
    facts = json.loads(remote_facts(0, 10).model_dump_json()) | change
    with pytest.raises(UpdateError):
        read_client_info({"facts": json.dumps(facts)}, num_labels=3)
    assert read_client_info({"facts": remote_facts(0, 10).model_dump_json()}, num_labels=3).samples == 10


@pytest.mark.parametrize("reply", [{}, {"facts": b"x"}, {"facts": "x" * 2**23}, {"error": "failed", "detail": "no"},
                                   Failure("lost")])  # fmt: skip
def test_replies_without_facts_are_refused(reply):
    with pytest.raises(UpdateError):
        read_client_info(reply, num_labels=3)


def test_what_a_node_says_instead_of_joining_is_shown_on_one_line():
    with pytest.raises(UpdateError) as raised:
        read_client_info(Failure("failed", "\x1b[31mno\nerror: forged" + "x" * 9999), num_labels=3)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400
