"""Case 53: a client that is told to speak otherwise than the server says so and ends, and does not try for ever."""

import contextlib
import socket
import ssl
import threading

import pytest

pytest.importorskip("cryptography", reason="needs the extra flower")

from fedhello.errors import ConfigError, EngineError
from fedhello.network.keys import make_server_keys
from fedhello.network.supervisor import Connection


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        make_server_keys(["localhost"], 1, folder / name)
    return folder


@contextlib.contextmanager
def listening(speak):
    """Serve one connection in some way; yield the port."""

    def serve():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            speak(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(timeout=10)
    assert not thread.is_alive()


def tls(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return lambda connection: context.wrap_socket(connection, server_side=True).close()


def plain(connection):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nInvalid HTTP request received.")


def nothing(connection):
    connection.recv(1000)


def test_who_speaks_as_the_server_does_is_let_go_on(keys):
    with listening(tls(keys / "ours")) as port:
        assert Connection("localhost", port, keys / "ours" / "ca.crt").check() is None
    with listening(plain) as port:
        assert Connection("localhost", port).check() is None


@pytest.mark.parametrize("ca", [None, "ours/ca.crt"])
def test_a_server_that_is_away_again_is_no_error(ca, keys):
    with listening(nothing) as port:
        assert Connection("localhost", port, ca and keys / ca).check() is None
    assert Connection("localhost", port, ca and keys / ca).check() is None  # nobody listens there any more


def test_plain_text_to_a_server_with_keys(keys):
    with listening(tls(keys / "ours")) as port, pytest.raises(EngineError, match=r"expected ca .* uses TLS; found"):
        Connection("localhost", port).check()


def test_tls_to_a_server_without_keys(keys):
    with listening(plain) as port, pytest.raises(EngineError, match=r"it uses none.*leave out ca"):
        Connection("localhost", port, keys / "ours" / "ca.crt").check()


def test_a_file_that_is_no_certificate(keys, tmp_path):
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"expected ca \(--ca\) to be the server's ca"):
        Connection("localhost", 1, tmp_path / "ca.crt").check()


def test_a_certificate_of_another_authority(keys):
    trusted = keys / "theirs" / "ca.crt"
    with (
        listening(tls(keys / "ours")) as port,
        pytest.raises(EngineError, match=r"signature|self-signed|issuer") as why,
    ):
        Connection("localhost", port, trusted).check()
    assert str(trusted) in str(why.value)
