"""Case 71: an honest client with 380,000 batches joins; facts that are too long are refused with the reason."""

import json

import numpy as np
import pytest

from fedhello.client.cost_model import Growth, batch_shapes
from fedhello.errors import UpdateError
from fedhello.network.registry import LONGEST_FACTS, ClientInfo, count_shapes, read_client_info
from fedhello.network.resumed import _counted
from network import remote_facts

BATCHES = 380_000


@pytest.fixture(scope="module")
def many():
    lengths = np.random.default_rng(0).integers(3, 129, 8 * BATCHES)
    return batch_shapes(lengths, batch_size=8, epochs=1)


def facts_of(many):
    widest, batches = many
    change = {"samples": 8 * BATCHES, "widest": widest, "batches": count_shapes(batches)}
    return ClientInfo.model_validate(remote_facts(0, 10).model_dump() | change)


def test_they_fit_into_a_thousandth_of_what_they_took(many):
    listed = len(json.dumps(many[1], separators=(",", ":")))
    text = facts_of(many).model_dump_json()
    assert listed > 0.6 * LONGEST_FACTS, "at three digits and more, a list was longer than a server reads"
    assert len(text) < 4000
    found = read_client_info({"facts": text}, num_labels=3)
    assert sum(found.shapes[2]) == BATCHES
    assert found.shapes[0] == many[0]


def test_costs_are_those_of_the_list(many):
    growth = Growth(100.0, 7.0, 2.0, 3.0)
    _, shapes, counts = facts_of(many).shapes
    assert growth.at(shapes, counts) == pytest.approx(growth.at(many[1]), rel=1e-12)


def test_facts_that_are_too_long_say_so():
    facts = json.loads(remote_facts(0, 10).model_dump_json()) | {"classes": list(range(700_000))}
    with pytest.raises(UpdateError, match=rf"in at most {LONGEST_FACTS} characters; found \d+") as raised:
        read_client_info({"facts": json.dumps(facts)}, num_labels=10**6)
    assert raised.value.reason == "too large"


def test_a_run_of_an_earlier_version_goes_on():
    old = json.loads(remote_facts(0, 10).model_dump_json()) | {"batches": [[4, 9], [4, 9], [2, 9]]}
    found = ClientInfo.model_validate_json(json.dumps(_counted(old)))
    assert found.batches == ((2, 9, 1), (4, 9, 2))
    assert _counted(found.model_dump(mode="json")) == found.model_dump(mode="json")
