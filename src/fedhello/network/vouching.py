"""Who vouches for the public keys in a secure sum, so that a server cannot invent the other clients.

A client with a key (``fedhello client --key``) signs the keys that it starts a sum with by ECDSA. An owner who trusts
certain clients alone lists their public keys, as ``fedhello keys client`` writes them, in a file, ``trusted`` of the
consent; a sum with any other client is refused then, and so is one with two that the same key signed. The list must not
come from the server, nor may the server know the private keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedhello.errors import ConfigError
from fedhello.network.consent import not_allowed
from fedhello.privacy.masking import PublicKeys


@dataclass(frozen=True)
class Vouching:
    """What a client signs its keys with, and whose it accepts.

    Attributes:
        key: Its private key; None signs nothing.
        trusted: Point on the curve → public key, of all clients that are accepted; None accepts everybody.
    """

    key: EllipticCurvePrivateKey | None = None
    trusted: Mapping[bytes, EllipticCurvePublicKey] | None = None

    def signed(self, keys: PublicKeys, purpose: str, client: int) -> PublicKeys:
        """Return this client's public keys with its signature."""
        if self.key is None:
            return keys
        signature = self.key.sign(_message(keys, purpose, client), ECDSA(SHA384()))
        point = _point(self.key.public_key())
        return replace(keys, vouched=bytes([len(point)]) + point + signature)

    def check(self, keys: Mapping[int, PublicKeys], purpose: str) -> None:
        """Check that different clients who are trusted have signed the keys of a sum.

        Args:
            keys: Client → its public keys.
            purpose: What is summed.

        Raises:
            RefusalError: If some are not signed so.
        """
        if self.trusted is None:
            return
        seen: set[bytes] = set()
        for k, one in keys.items():
            end = 1 + int.from_bytes(one.vouched[:1])
            point, signature = one.vouched[1:end], one.vouched[end:]
            try:
                if point in seen:
                    raise InvalidSignature
                self.trusted[point].verify(signature, _message(one, purpose, k), ECDSA(SHA384()))
            except (KeyError, InvalidSignature):
                raise not_allowed(
                    "secure sums among different clients whose keys are in trusted (of the consent)", f"client {k}"
                ) from None
            seen.add(point)


def read_vouching(key: str | None, trusted: Path | None) -> Vouching:
    """Return what a client signs with and whom it trusts.

    Args:
        key: The file of its private key; None without one.
        trusted: The file with the public keys of the clients that its owner trusts, one a line; None trusts everybody.

    Raises:
        ConfigError: If a file is not of such keys, or there is a list and no key.
    """
    if trusted is not None and key is None:
        raise ConfigError(
            "expected a key (--key) with trusted of the consent, by which others know this client; found none"
        )
    own = None if key is None else _private(Path(key))
    if trusted is None:
        return Vouching(own)
    try:
        lines = [line.encode() for line in trusted.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [load_ssh_public_key(line) for line in lines]
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"expected public keys in OpenSSH's format, one a line, in {trusted}; {error}") from error
    known = [one for one in found if isinstance(one, EllipticCurvePublicKey)]
    if len(known) < len(found):
        raise ConfigError(f"expected public keys that fedhello keys client makes in {trusted}; found others")
    return Vouching(own, {_point(one): one for one in known})


def _private(file: Path) -> EllipticCurvePrivateKey:
    try:
        found = load_ssh_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"expected a private key that fedhello keys client makes in {file}; {error}") from error
    if not isinstance(found, EllipticCurvePrivateKey):
        raise ConfigError(f"expected a private key that fedhello keys client makes in {file}; found another kind")
    return found


def _message(keys: PublicKeys, purpose: str, client: int) -> bytes:
    return f"fedhello/{purpose}/{client}/".encode() + keys.encryption + keys.masks


def _point(key: EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
