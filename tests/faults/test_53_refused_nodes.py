"""Case 53: a node without a key, or with another authority, is refused; by default the server is for this machine.

A wrong key and plain text: ``test_53_who_may_connect``. What TLS itself refuses, such as an expired certificate:
``tests/network/test_keys.py``.
"""

import secrets
import time

import pytest

from fedhello.network.keyring import Keyring
from fedhello.network.keys import make_client_key, make_server_keys
from fedhello.network.processes import free_port, spawn, stop
from fedhello.network.superlink import ServerOptions, superlink
from fedhello.network.supervisor import Connection


def test_the_server_listens_on_this_machine_alone_by_default(call, tmp_path):
    assert ServerOptions().host == "127.0.0.1"
    code, out, _ = call(tmp_path, "server", "--help")
    assert code == 0
    assert "127.0.0.1" in out


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The keys of a server and of one client that it knows, and another authority."""
    folder = tmp_path_factory.mktemp("keys")
    make_server_keys(["localhost"], 1, folder / "server")
    make_client_key("node", folder / "server")
    make_server_keys(["localhost"], 1, folder / "elsewhere")
    return folder


@pytest.fixture(scope="module")
def listening(keys, tmp_path_factory):
    """A server with these keys; its port."""
    flower = pytest.importorskip("fedhello.network.flower", reason="needs the extra flower")
    options = ServerOptions(port=free_port(), keys=keys / "server")
    log = tmp_path_factory.mktemp("log") / "superlink.log"
    with superlink(options, secrets.token_bytes(32), log) as process:
        process.wait()
        Keyring(options.keys, flower.ControlledNodes(options.address), print).register_all()
        yield options.port
    assert "PRIVATE KEY" not in log.read_text()


def stays_connected(connection, folder, seconds):
    """Start a client's node; return whether it runs after so many seconds without a failed attempt to connect."""
    secret, log = folder / "secret", folder / "log"
    secret.write_bytes(secrets.token_bytes(32))
    child = spawn("fedhello.network.flower_main", connection.supernode(free_port(), secret), log)
    try:
        end = time.monotonic() + seconds
        refused = False
        while not refused and time.monotonic() < end:
            time.sleep(0.1)
            refused = child.poll() is not None or "Connection attempt failed" in log.read_text()
        assert child.poll() != 0
        return not refused
    finally:
        stop(child)
        assert "PRIVATE KEY" not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ca", "key"),
    [("server/ca.crt", None), ("elsewhere/ca.crt", "server/node")],
    ids=["no key", "wrong authority"],
)
def test_whoever_lacks_something_is_refused(ca, key, keys, listening, tmp_path):
    connection = Connection("localhost", listening, keys / ca, key and keys / key)
    assert not stays_connected(connection, tmp_path, 60)
