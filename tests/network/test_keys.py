"""Keys that Flower reads, and certificates that hold in real TLS handshakes on loopback."""

import contextlib
import datetime
import os
import socket
import ssl
import stat
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedhello.errors import ConfigError, RunFolderError
from fedhello.network.keys import make_client_key, make_server_keys

HOSTS = ["fl.example.org", "192.0.2.7", "2001:db8::7"]
LOOPBACK = ["localhost", "127.0.0.1", "::1"]
PRESENT = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a server that is called as in HOSTS."""
    path = tmp_path_factory.mktemp("keys") / "new" / "keys"
    make_server_keys(HOSTS, 365, path)
    return path


@contextlib.contextmanager
def listening(folder):
    """Serve one connection on loopback: TLS, then one word; yield the address and what the server says went wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    complaints = []

    def serve():
        connection, _ = listener.accept()
        try:
            with connection, context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(b"welcome")
        except OSError as error:  # ssl's errors are among them
            complaints.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname(), complaints, thread
        finally:
            thread.join(timeout=10)
    assert not thread.is_alive()


def visit(folder, host="localhost", trust=None):
    """Connect as a client that trusts an authority and expects a host; return what the server says."""
    context = ssl.create_default_context(cafile=(trust or folder) / "ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with (
        listening(folder) as (address, _, _),
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        assert secured.version() in ("TLSv1.2", "TLSv1.3")
        return secured.recv(100)


@pytest.mark.parametrize("host", HOSTS + LOOPBACK)
def test_the_certificate_holds_for_each_name_and_address(host, folder):
    assert visit(folder, host) == b"welcome"


@pytest.mark.parametrize("host", ["example.org", "x.fl.example.org", "127.0.0.2", "fedhello server"])
def test_another_host_is_refused(host, folder):
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        visit(folder, host)


def test_the_certificate_of_another_authority_is_refused(folder, tmp_path):
    make_server_keys(HOSTS, 365, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"signature|unable to get local issuer|self-signed"):
        visit(folder, trust=tmp_path)


def test_an_expired_certificate_is_refused(tmp_path):
    make_server_keys(HOSTS, 1, tmp_path, now=PRESENT - datetime.timedelta(days=1, minutes=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        visit(tmp_path)


@pytest.mark.parametrize(("hours", "holds"), [(23, True), (25, False)])
def test_a_client_whose_clock_is_a_day_slow_is_served(hours, holds, tmp_path):
    make_server_keys(HOSTS, 1, tmp_path, now=PRESENT + datetime.timedelta(hours=hours))
    with contextlib.nullcontext() if holds else pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        assert visit(tmp_path) == b"welcome"


def test_plaintext_to_the_tls_port_is_refused(folder):
    with listening(folder) as (address, complaints, thread), socket.create_connection(address, timeout=10) as plain:
        plain.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        thread.join(timeout=10)
        with contextlib.suppress(ConnectionResetError):
            assert b"welcome" not in plain.recv(100)
    assert complaints
    assert "http request" in complaints[0].lower()


def test_the_authority_signs_servers_only(folder):
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    rules = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert rules.critical
    assert (rules.value.ca, rules.value.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    (use,) = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert use == ExtendedKeyUsageOID.SERVER_AUTH
    lasts = server.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=364, hours=23) < lasts <= datetime.timedelta(days=365)


def test_a_clients_key_is_what_flower_reads(tmp_path):
    private, public = make_client_key("node-1", tmp_path)
    assert (private.name, public.name) == ("node-1", "node-1.pub")
    key = load_ssh_private_key(private.read_bytes(), None)  # as flower-supernode --auth-supernode-private-key does
    known = load_ssh_public_key(public.read_bytes())  # as flwr supernode register does
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(known, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert key.public_key() == known


def test_no_two_keys_are_the_same(tmp_path):
    files = [*make_client_key("a", tmp_path), *make_client_key("b", tmp_path), *make_server_keys(HOSTS, 1, tmp_path)]
    assert len({path.read_bytes() for path in files}) == len(files) == 8


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_private_files_are_their_owners_alone(mask, tmp_path):
    before = os.umask(mask)
    try:
        make_server_keys(["localhost"], 1, tmp_path / "keys")
        make_client_key("node", tmp_path / "keys")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    private = dict.fromkeys(["ca.key", "server.key", "node"], 0o600)
    assert modes == private | dict.fromkeys(["ca.crt", "server.pem", "node.pub"], 0o644)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "server.pem", "server.key"])
def test_a_file_of_a_server_is_never_written_over(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunFolderError, match=rf"expected to make .*{name}, which exists"):
        make_server_keys(HOSTS, 1, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.parametrize("name", ["node", "node.pub"])
def test_a_file_of_a_client_is_never_written_over(name, tmp_path):
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")  # a link to nothing counts as a file too
    with pytest.raises(RunFolderError, match=rf"expected to make .*{name}, which exists"):
        make_client_key("node", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"expected to write keys to .*; Not a directory"):
        make_client_key("node", tmp_path / "file" / "keys")


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        ((), r"expected a host \(--host\), a name or address"),
        (["localhost:8000"], "without port; found 'localhost:8000'"),
        (["*.example.org"], r"found '\*\.example\.org'"),
        (["exämple.org"], r"expected the host \(--host\) to be a name"),
        (["a..b"], r"expected the host \(--host\) to be a name"),
        (["-a.org"], r"expected the host \(--host\) to be a name"),
        ([""], r"expected the host \(--host\) to be a name"),
        (["a" * 64], r"expected the host \(--host\) to be a name"),
        (["localhost", "0.0.0.0"], "0.0.0.0 is only an address to listen on"),
        (["::"], ":: is only an address to listen on"),
    ],
)
def test_hosts_that_cannot_be_certified_are_refused(hosts, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        make_server_keys(hosts, 1, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_out_of_bounds_are_refused(days, tmp_path):
    with pytest.raises(ConfigError, match=rf"expected days \(--days\) between 1 and 3650; found {days}"):
        make_server_keys(HOSTS, days, tmp_path / "keys")


@pytest.mark.parametrize("name", ["", "../node", "a/b", ".hidden", "-o", "node.pub", "a b", "a\n", "n" * 65])
def test_names_that_are_no_files_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="expected a client's name"):
        make_client_key(name, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()
