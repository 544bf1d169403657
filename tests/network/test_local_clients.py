import sys

import pytest

from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.network import local_clients
from fedhello.network.superlink import ServerOptions


@pytest.fixture
def children(monkeypatch):
    """What would be started, and what was stopped."""
    started, stopped = [], []

    def spawn(module, arguments):
        started.append((module, arguments))
        return len(started)

    monkeypatch.setattr(local_clients, "spawn", spawn)
    monkeypatch.setattr(local_clients, "stop", stopped.append)
    return started, stopped


def test_everybody_takes_part_unless_the_user_says_otherwise(workplace, tmp_path):
    demo = local_clients.demonstration(None, [], 3)
    assert (demo.data.clients, demo.train.clients_per_round, demo.train.rounds) == (3, 3, local_clients.ROUNDS)
    own = local_clients.demonstration(workplace / "tiny.yaml", ["train.clients_per_round=2"], 4)
    assert (own.data.clients, own.train.clients_per_round, own.train.rounds) == (4, 2, 2)
    (tmp_path / "six.yaml").write_text("train: {clients_per_round: 3}\n")
    asked = [local_clients.demonstration(tmp_path / "six.yaml", [], n).train.clients_per_round for n in (6, 3, 2)]
    assert asked == [3, 3, 2]
    with pytest.raises(ConfigError, match="at least 1; found 0"):
        local_clients.demonstration(None, [], 0)


def test_each_client_has_its_part_and_ends_with_the_server_however_that_ends(children, monkeypatch):
    started, stopped = children
    said = []
    config = load_config(None, [])
    with pytest.raises(RuntimeError), local_clients.local_clients(config, 3, said.append) as start:
        start(ServerOptions(port=8123))
        raise RuntimeError("the server fails")
    assert stopped == [1, 2, 3]
    taken = []
    monkeypatch.setattr(local_clients, "end_with_parent", lambda: None)
    monkeypatch.setattr(local_clients, "show_notes", lambda: None)
    monkeypatch.setattr(local_clients, "take_part", lambda at, options, *_: taken.append((at.port, options)))
    for module, arguments in started:
        assert module == "fedhello.network.local_clients"
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        local_clients.main()
    assert [(port, options.name, options.part) for port, options in taken] == [
        (8123, f"part-{k:03d}", k) for k in range(3)
    ]
    assert said == ["started 3 clients on this machine, with the parts 0 … 2 of embedded:bbc-headlines"]
