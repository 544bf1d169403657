"""Case 72: a name that belongs to another key is refused.

With real processes and keys: ``test_53_who_may_connect.py``.
"""

import secrets
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from fedhello.network.keyring import Keyring
from fedhello.network.keys import make_client_key, make_server_keys
from fedhello.network.processes import free_port, spawn, stop
from fedhello.network.registry import LOOK_AROUND, ClientRegistry
from fedhello.network.superlink import ServerOptions, superlink
from fedhello.network.supervisor import Connection
from fedhello.network.worker import Worker
from fedhello.notes import fields_of
from network import remote_facts


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
    assert "not among those in the server's folder" in refused[nodes["thief"]]
    assert "thief" not in {name for name, _, _, _ in network.sent}


ANSWERS = """
import sys
from pathlib import Path
from fedhello.network.flower import answered
from fedhello.network.messages import Address
port, secret, *facts = sys.argv[1:]
answer = lambda kind, fields: {"facts": facts.pop(0), "probe": bytes(2**20)}
answered(Address("127.0.0.1", int(port)), Path(secret).read_bytes(), answer, lambda: bool(facts))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_a_real_superlink_knows_a_node_by_its_key(tmp_path):
    """A node with the key of paris says it is berlin, and then that it is paris; its replies come through ``Pulls``."""
    flower = pytest.importorskip("fedhello.network.flower", reason="needs the extra flower")
    make_server_keys(["localhost"], 1, tmp_path / "keys")
    for name in ("berlin", "paris"):
        make_client_key(name, tmp_path / "keys")
    options = ServerOptions(port=free_port(), keys=tmp_path / "keys")
    secret, own, port = secrets.token_bytes(32), tmp_path / "secret", free_port()
    own.write_bytes(secrets.token_bytes(32))
    facts = [remote_facts(0, 10).model_copy(update={"name": name}).model_dump_json() for name in ("berlin", "paris")]

    with superlink(options, secret, tmp_path / "superlink.log") as process:
        process.wait()
        said = []
        ring = Keyring(tmp_path / "keys", flower.ControlledNodes(options.address), said.append)
        ring.register_all()
        owners = dict(ring.owners)
        assert sorted(owners.values()) == ["berlin", "paris"]
        connection = Connection("localhost", options.port, tmp_path / "keys/ca.crt", tmp_path / "keys/paris")
        child = spawn("fedhello.network.flower_main", connection.supernode(port, own), tmp_path / "supernode.log")
        worker = subprocess.Popen([sys.executable, "-c", ANSWERS, str(port), own, *facts])
        try:
            with flower.opened(options.address, secret) as link:
                lobby, found, end = ClientRegistry(link, {}, 3, owners=ring.owners), [], time.monotonic() + 120
                lobby.refresh = ring.refresh
                while len(found) < 2 and time.monotonic() < end:
                    arrived = lobby.look()
                    found += arrived
                    for arrival in arrived:
                        lobby.ask_again(arrival.node)
                    time.sleep(0.1)
                (node,) = lobby.connected
                # Its key is taken away, and another of its name put in its place: it is out at once.
                (tmp_path / "keys" / "paris.pub").unlink()
                (tmp_path / "keys" / "paris").unlink()
                make_client_key("paris", tmp_path / "keys")
                time.sleep(LOOK_AROUND)
                lobby.look()
                assert lobby.connected == frozenset() and node not in link.nodes()
                assert sorted(ring.owners.values()) == ["berlin", "paris"] and node not in ring.owners
                # One that never connected is forgotten, too, and no key is taken twice.
                kept = (tmp_path / "keys" / "berlin.pub").read_bytes()
                (tmp_path / "keys" / "berlin.pub").unlink()
                ring.refresh()
                (tmp_path / "keys" / "berlin.pub").write_bytes(kept)
                ring.refresh()
                assert list(ring.owners.values()) == ["paris"]
                assert [fields_of(line)["event"] for line in said] == [
                    "key removed", "key added", "key removed", "key refused",
                ]  # fmt: skip
        finally:
            stop(child)
            worker.kill()
            worker.wait()
    assert [owners[arrival.node] for arrival in found] == ["paris", "paris"]
    assert [arrival.name for arrival in found] == ["", "paris"]
    assert "'berlin' is not the name of its key, which is 'paris'" in found[0].facts
