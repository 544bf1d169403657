"""Case 41: fewer clients than a run needs: it waits with a visible countdown, and ends with a numbered exit."""

import shutil

import pytest
from machines import CONFIG, Machines

from fedhello.config.load import load_config
from fedhello.errors import ClientsError
from fedhello.network.admission import gather
from fedhello.network.registry import ClientRegistry
from network import Network


def test_waiting_is_counted_down_and_ends():
    network, said = Network(), []
    lobby = ClientRegistry(network, {}, 2, network.clock)
    config = load_config(None, ["data.clients=3", "train.clients_per_round=3", "run.wait=60"])
    with pytest.raises(ClientsError, match="expected 3 clients within 60 s; 0 joined"):
        gather(lobby, config, (), said.append, network.wait)
    assert 60 <= network.now < 61
    left = [int(line.split(", ")[1].split()[0]) for line in said]
    assert left == sorted(left, reverse=True)
    assert len(left) == 5
    assert ClientsError.exit_code == 11


@pytest.mark.slow
def test_the_command_ends_with_that_code_and_leaves_nothing_behind(workplace, tmp_path):
    pytest.importorskip("flwr", reason="needs the extra flower")
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    net = Machines(tmp_path / "place", CONFIG.replace("wait: 600", "wait: 3"))
    try:
        net.server()
        assert net.end("server") == 11
        assert "expected 3 clients within 3 s; 0 joined" in net.said("server")
        assert net.left() == ([], False)
        assert not net.run.exists()
    finally:
        net.close()
