"""Case 42: a server with one client works where the configuration says so; no minimum is hidden anywhere."""

from fedhello import algorithm
from fedhello.config.load import load_config
from fedhello.methods import METHODS
from fedhello.network.admission import gather
from fedhello.network.registry import ClientRegistry
from network import Network


def test_one_client_is_enough(remote_world):
    _network, engine, local = remote_world(clients=1)
    method = METHODS["gd-hla"].bind(pattern="triangle")
    state = algorithm.init(local.model.snapshot(share_head=True))
    state, record = algorithm.round(state, engine.federation, method, engine.train, score=None)
    assert [report.client for report in record.clients] == [0]
    assert state.round == 1


def test_the_server_waits_for_one_client_only(remote_world):
    network, engine, _ = remote_world(clients=1)
    lobby = ClientRegistry(network, {"config": "{}", "labels": "[]", **engine.lobby.invitation}, 3, network.clock)
    config = load_config(None, ["data.clients=1", "train.clients_per_round=1"])
    members, nodes, rates = gather(lobby, config, (), lambda line: None, network.wait)
    assert [member.name for member in members] == ["client-0"]
    assert nodes == {0: network.node_of["client-0"]}
    assert rates[0] > 0
    assert isinstance(network, Network)
