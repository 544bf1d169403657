import json

import pytest

from fedhello.errors import ClientsError
from fedhello.network.admission import BACK_SECONDS, _admit, gather, with_tiers
from fedhello.network.registry import ClientRegistry
from fedhello.network.server import _invitation
from fedhello.setup.prepare import load
from network import config_of, network_of, remote_facts


def test_a_client_that_is_back_before_its_dead_connection_ends_is_waited_for(place):
    config, said = config_of(place), []
    network = network_of()
    dead = network.connect("part-000 dead", network.workers["part-000"])
    lobby = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)

    def wait(seconds):
        network.wait(seconds)
        if network.now > 5:
            network.node_of.pop("part-000 dead", None)

    both = sorted([dead, network.node_of["part-000"]])
    three = config.model_copy(update={"data": config.data.model_copy(update={"clients": 3})})
    network.node_of["part-000 dead"], network.node_of["part-000"] = both  # the dead one answered first
    del network.node_of["part-002"]  # else all would be there
    late = network.connect

    def join(seconds):
        wait(seconds)
        if network.now > 10 and "part-002" not in network.node_of:
            late("part-002", network.workers["part-002"])

    _, nodes, _ = gather(lobby, three, (), said.append, join)
    assert nodes[0] == network.node_of["part-000"]
    assert sum("connected already" in line for line in said) == 1


@pytest.mark.parametrize(
    "change", [{"widest": (2**31 - 1, 2**31 - 1)}, {"batches": ((4, 9, 99),)}, {"batches": ((4, 2**31 - 1, 1),)}]
)
def test_a_client_that_speaks_of_more_than_its_samples_give_is_not_admitted(place, change):
    config, said = config_of(place), []
    network = network_of()

    def lie(reply):
        facts = json.loads(reply["facts"]) | change
        return {**reply, "facts": json.dumps(facts)}

    network.faults["part-001", "join"] = [lie]
    lobby = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)
    soon = config.model_copy(update={"run": config.run.model_copy(update={"wait": 3.0})})
    with pytest.raises(ClientsError, match="2 joined"):
        gather(lobby, soon, (), said.append, network.wait)
    assert any("'part-001' cannot take part: expected at most" in line for line in said)


def test_a_run_that_goes_on_admits_nobody_else(place):
    config, said = config_of(place), []
    network = network_of()
    lobby = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)
    stranger = [remote_facts(0, 10)]
    with pytest.raises(Exception, match="expected 2 clients"):
        gather(lobby, config.model_copy(update={"run": config.run.model_copy(update={"wait": 5.0})}), stranger * 3,
               said.append, network.wait)  # fmt: skip
    assert sum("did not take part, with this data, from the start" in line for line in said) == 3


def test_budgets_become_tiers_in_the_order_of_ids(place):
    config = config_of(place)
    members = [
        remote_facts(0, 10).model_copy(update={"budget": budget})
        for budget in (type(remote_facts(0, 10).budget)(memory=m) for m in (9, 7, 9))
    ]
    tiers = with_tiers(config, members).clients.tiers
    assert [(tier.memory, round(tier.share, 3)) for tier in tiers] == [(9, 0.667), (7, 0.333)]


def test_a_client_at_the_door_is_judged_as_one_of_all(place):
    """Under banded noise three clients a round need six or more; a client that joins is not all of them."""
    words = ["method.name=rgd-hla", "data.clients=6", "train.clients_per_round=3", "train.quorum=0.5"]
    words += ["model.head=solved", "model.train_head=false", "train.loss=auto"]
    words += ["privacy={secure: true, epsilon: 8, mechanism: banded}"]
    config = config_of(place, *words)
    assert _admit(remote_facts(0, 1), config, (), lambda facts: None) is None


def test_a_run_that_goes_on_does_not_wait_for_clients_beyond_its_quorum_for_ever(place):
    config, said = config_of(place), []
    network = network_of(clients=2)
    first = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)
    two = config.model_copy(update={"data": config.data.model_copy(update={"clients": 2})})
    members, _, _ = gather(first, two, (), said.append, network.wait)
    roster = [*members, remote_facts(2, 10)]  # the third does not come back
    lobby = ClientRegistry(network, _invitation(load(config), "s"), 2, network.clock)
    begin = network.now
    found, nodes, _ = gather(lobby, config, roster, said.append, network.wait)
    assert [member.name for member in found] == ["part-000", "part-001", "client-2"]
    assert sorted(nodes) == [0, 1]
    assert BACK_SECONDS <= network.now - begin < BACK_SECONDS + 2
