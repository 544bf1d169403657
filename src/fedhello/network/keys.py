"""Keys and certificates for a federation on many machines: a private authority for the server, a key pair per client.

The server proves who it is by a certificate (TLS, RFC 5280 and 9525) that a certificate authority of one's own has
signed; every client gets that authority's certificate, ``ca.crt``. A client proves who it is by an ECDSA key on the
curve P-384 in OpenSSH's format, which is what Flower's nodes read. Needs the extra ``flower``.
"""

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedhello.errors import ConfigError, MissingExtraError, RunFolderError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise MissingExtraError("keys need cryptography; run: pip install 'fedhello[flower]'") from error

AUTHORITY, AUTHORITY_KEY, CERTIFICATE, CERTIFICATE_KEY = "ca.crt", "ca.key", "server.pem", "server.key"

PRIVATE, PUBLIC, FOLDER = 0o600, 0o644, 0o700
"""Modes of the files and of a new folder for them."""

PORT = 8000
"""Default port of Flower's server."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names by which the server's own processes reach it, added to every certificate."""

LONGEST_DAYS = 3650

EARLIER = timedelta(days=1)
"""Certificates are valid from this long ago, for clients whose clocks are slow."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_CLIENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def make_server_keys(
    hosts: Sequence[str], days: int, folder: Path, now: datetime | None = None
) -> tuple[Path, Path, Path, Path]:
    """Make a certificate authority, and a certificate for a server that clients reach under the names given.

    Args:
        hosts: Names and IP addresses, one at least; those of the machine itself are added.
        days: How long both certificates are valid.
        folder: Where to; made if it is not there.
        now: What the days count from; the present if not given.

    Returns:
        ``ca.crt``, ``ca.key``, ``server.pem`` and ``server.key``; the two keys are readable by their owner only.

    Raises:
        ConfigError: If a host or the number of days cannot be certified.
        RunFolderError: If one of the files exists, or cannot be written.
    """
    names = [_subject_name(host) for host in dict.fromkeys((*hosts, *LOOPBACK))]
    if not hosts:
        raise ConfigError("expected a host (--host), a name or address by which clients reach the server; found none")
    if not 1 <= days <= LONGEST_DAYS:
        raise ConfigError(f"expected days (--days) between 1 and {LONGEST_DAYS}; found {days}")
    begins = (now or datetime.now(UTC)) - EARLIER
    ends = begins + EARLIER + timedelta(days=days)
    authority, server = _new_key(), _new_key()
    public = {
        AUTHORITY: _pem(_certify_authority(authority, begins, ends)),
        CERTIFICATE: _pem(_certify_server(server, names, authority, begins, ends)),
    }
    _write(folder, public, {AUTHORITY_KEY: _pkcs8(authority), CERTIFICATE_KEY: _pkcs8(server)})
    return folder / AUTHORITY, folder / AUTHORITY_KEY, folder / CERTIFICATE, folder / CERTIFICATE_KEY


def make_client_key(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a client's key pair.

    Args:
        name: Of the client; the files are called after it.
        folder: Where to; made if it is not there.

    Returns:
        ``NAME``, readable by its owner only, and ``NAME.pub``, which the server is told.

    Raises:
        ConfigError: If the name cannot be that of a file.
        RunFolderError: If one of the files exists, or cannot be written.
    """
    if not _CLIENT.fullmatch(name) or name.endswith(".pub"):
        raise ConfigError(
            "expected a client's name of at most 64 letters, digits, '.', '_' and '-', not ending in .pub; "
            f"found {name!r}. Choose another."
        )
    key = _new_key()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + f" {name}\n".encode()
    _write(folder, {f"{name}.pub": public}, {name: private})
    return folder / name, folder / f"{name}.pub"


def server_steps(folder: Path, host: str) -> list[str]:
    """Return the next steps with a server's files, for clients that reach it as ``host``; one line per step."""
    address = f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}"
    return [
        f"make a key for each client:  fedhello keys client NAME --out {folder}",
        f"start the server:            fedhello server CONFIG --host 0.0.0.0 --keys {folder}",
        f"take {AUTHORITY} and NAME to each client, nothing else, and start it there:",
        f"    fedhello client --server {address} --ca {AUTHORITY} --key NAME --data DATA",
        f"{AUTHORITY_KEY} can make certificates that your clients trust: take it off this machine, or delete it.",
    ]


def client_steps(private: Path, public: Path) -> list[str]:
    """Return the next steps with a client's key pair; one line per step."""
    return [
        f"keep {public.name} on the server's machine, in the folder of its --keys; a server that runs takes it in",
        f"take {private.name} and {AUTHORITY} to the client's machine, and start it there:",
        f"    fedhello client --server HOST:{PORT} --ca {AUTHORITY} --key {private.name} --data DATA",
        f"whoever has {private.name} is this client: nobody but that machine needs it.",
    ]


def _subject_name(host: str) -> x509.GeneralName:
    """Return a host in the form of a certificate."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
            raise ConfigError(
                "expected the host (--host) to be a name such as fl.example.org, or an IP address, without port; found "
                f"{host!r}"
            ) from None
        return x509.DNSName(host)
    if address.is_unspecified:
        raise ConfigError(
            f"expected the host (--host) by which clients reach the server; {host} is only an address to listen on. "
            "Give the server's name or its address in the clients' network."
        )
    return x509.IPAddress(address)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _certify_authority(key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime) -> x509.Certificate:
    """Return an authority's self-signed certificate; it may sign servers, but no further authorities."""
    builder = (
        _builder(key.public_key(), "fedhello authority", begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _sign(builder, key)


def _certify_server(
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    authority: ec.EllipticCurvePrivateKey,
    begins: datetime,
    ends: datetime,
) -> x509.Certificate:
    """Return a server's certificate for the given names, signed by the authority; it may only be used for servers."""
    builder = (
        _builder(key.public_key(), "fedhello server", begins, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return _sign(builder, authority)


def _builder(key: ec.EllipticCurvePublicKey, subject: str, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    def named(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    return x509.CertificateBuilder(
        issuer_name=named("fedhello authority"),
        subject_name=named(subject),
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=begins,
        not_valid_after=ends,
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _sign(builder: x509.CertificateBuilder, authority: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return builder.add_extension(issuer, critical=False).sign(authority, hashes.SHA384())


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(folder: Path, public: Mapping[str, bytes], private: Mapping[str, bytes]) -> None:
    """Write new files, all or none; private files have their mode from the start."""
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER)
        for contents, mode in ((private, PRIVATE), (public, PUBLIC)):
            for name, content in contents.items():
                descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                made.append(folder / name)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
    except OSError as error:
        for path in made:
            path.unlink()
        if isinstance(error, FileExistsError):
            raise RunFolderError(
                f"expected to make {error.filename}, which exists; keys are never overwritten. Give another --out."
            ) from error
        raise RunFolderError(f"expected to write keys to {folder}; {error.strerror or error}") from error
