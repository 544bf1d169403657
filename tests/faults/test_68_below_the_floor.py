"""Case 68: a client whose budget is too small for any training, as one of those that are needed."""

import json

import pytest
from machines import CONFIG

from fedhello.errors import ClientsError, ConfigError
from fedhello.network.admission import gather
from fedhello.network.registry import ClientRegistry
from fedhello.network.server import _invitation, _unable, remote_session
from fedhello.setup.prepare import load
from network import config_of, network_of


@pytest.fixture
def floor_place(place, monkeypatch):
    (place / "net.yaml").write_text(CONFIG)
    monkeypatch.chdir(place)
    return place


def poor(reply):
    """State a budget of one byte."""
    facts = json.loads(reply["facts"])
    return {**reply, "facts": json.dumps({**facts, "budget": {"memory": 1}})}


def test_it_is_refused_at_the_door_and_the_run_waits_for_another(floor_place):
    config, said = config_of(floor_place), []
    network = network_of()
    network.faults["part-001", "join"] = [poor]
    honest = network.workers["part-001"]

    def say(line):
        said.append(line)
        if "not admitted" in line:
            network.connect("part-001", honest)

    loaded = load(config)
    lobby = ClientRegistry(network, _invitation(loaded, "r"), 2, network.clock)
    members, nodes, _ = gather(lobby, config, (), say, network.wait, _unable(loaded))
    assert [member.name for member in members] == ["part-000", "part-001", "part-002"]
    assert nodes[1] == network.node_of["part-001"]
    assert len(remote_session(loaded, lobby, members, "r")[0].federation.clients) == 3
    refused = [line for line in said if "not admitted" in line]
    assert len(refused) == 1
    assert "'part-001' cannot take part: its budget is below the floor: training" in refused[0]
    assert "the budget is 1 B" in refused[0]


def test_before_it_ended_the_run(floor_place):
    """Without the check at the door, as it was, the session cannot be made."""
    config = config_of(floor_place)
    network = network_of()
    network.faults["part-001", "join"] = [poor]
    loaded = load(config)
    lobby = ClientRegistry(network, _invitation(loaded, "r"), 2, network.clock)
    members, _, _ = gather(lobby, config, (), lambda line: None, network.wait)
    with pytest.raises(ConfigError, match="2 of 3 can train"):
        remote_session(loaded, lobby, members, "r")


def test_if_nobody_else_comes_the_run_says_so_after_its_wait(floor_place):
    config = config_of(floor_place, "run.wait=3")
    network = network_of()
    network.faults["part-001", "join"] = [poor]
    loaded = load(config)
    lobby = ClientRegistry(network, _invitation(loaded, "r"), 2, network.clock)
    with pytest.raises(ClientsError, match="2 joined"):
        gather(lobby, config, (), lambda line: None, network.wait, _unable(loaded))
