"""Case 72: a name that belongs to another key is refused.

With real processes and keys: ``test_53_who_may_connect.py``.
"""

from dataclasses import replace

import pytest

from fedhello.network.registry import ClientRegistry
from fedhello.network.worker import Worker


def joining(network, engine, owners):
    """Return who joins a server: the names, and what is said about the others."""
    lobby = ClientRegistry(network, engine.lobby.invitation, 3, network.clock, owners)
    arrivals = lobby.look()
    network.now += 2
    arrivals += lobby.look()
    return {a.node: a.name for a in arrivals if a.name}, {a.node: a.facts for a in arrivals if not a.name}


@pytest.fixture
def taking(remote_world):
    """A network of three clients and a thief that says it is client-1; the node of each."""
    network, engine, _ = remote_world()
    victim = network.workers["client-1"]._client
    thief = replace(victim, facts=victim.facts.model_copy(update={"samples": 2**31 - 1}))
    del network.node_of["client-1"]
    network.connect("thief", Worker(lambda config, labels: thief, watched=False))
    network.sent.clear()
    return network, engine, dict(network.node_of)


def test_with_keys_a_client_has_the_name_of_its_key(taking):
    network, engine, nodes = taking
    owners = {nodes["client-0"]: "client-0", nodes["client-2"]: "client-2", nodes["thief"]: "thief", 5: "client-1"}
    joined, refused = joining(network, engine, owners)
    assert joined == {nodes["client-0"]: "client-0", nodes["client-2"]: "client-2"}
    assert refused.keys() == {nodes["thief"]}
    assert "'client-1' is not the name of its key, which is 'thief'" in refused[nodes["thief"]]


def test_before_it_took_the_name_of_a_client_that_was_away(taking):
    """Without keys it still can: the first node to give a name keeps it while it is connected."""
    network, engine, nodes = taking
    joined, refused = joining(network, engine, None)
    assert joined[nodes["thief"]] == "client-1"
    assert not refused


def test_a_key_that_a_stranger_registered_is_not_even_told_the_configuration(taking):
    """Whoever has ca.crt can register a key with Flower's Control API; fedhello does not let such a node take part."""
    network, engine, nodes = taking
    joined, refused = joining(network, engine, {nodes["client-0"]: "client-0", nodes["client-2"]: "client-2"})
    assert sorted(joined.values()) == ["client-0", "client-2"]
    assert "not among those that the server registered" in refused[nodes["thief"]]
    assert "thief" not in {name for name, _, _, _ in network.sent}
