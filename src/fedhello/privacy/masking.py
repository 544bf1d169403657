"""Secure aggregation: a server learns the sum of its clients' vectors, and nothing else of them.

The protocol of Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS 2017), with
the complete graph among the n clients of a round and the threshold t. All vectors are of whole numbers modulo 2^b.

    advertise   client u → server    the public keys c_u (encryption) and s_u (masks)
    share       server → u           everybody's public keys
                u → server           for each v, encrypted to c_v: shares of the seeds of s_u and of b_u, t of n
    mask        server → u           the shares that the others made for u; U₂ are those who sent some
                u → server           y_u = x_u + PRG(b_u) + Σ_{v ∈ U₂, v > u} PRG(s_uv) − Σ_{v ∈ U₂, v < u} PRG(s_uv)
    unmask      server → u           U₃, those whose y_u came
                u → server           its shares of b_v for v ∈ U₃, and of s_v for the others of U₂

Masks between clients cancel in the sum; the server takes out b_u of those who stayed, and the masks that those who left
had with the others. A client never reveals both of b_v and s_v, and answers each step once, so a server that follows
the messages learns Σ_{u ∈ U₃} x_u alone. One that names different U₃ to different clients would need t answers for each
of two; with t ≥ 2n/3 it does not get them unless a third of the clients work with it.

Not proved to clients: that the public keys are those of real clients. A server that invents all clients but one learns
that one's vector. Nor are values proved to lie in any range: a client that sends garbage spoils the sum of its round.

Flower's SecAgg+ is not used: it runs under the legacy strategies alone, drops arrays where clients' sets differ, and
draws masks from a Mersenne twister that is seeded with 32 bits (``pseudo_rand_gen``), which anyone can try. Here keys
are agreed by X25519, masks drawn by ChaCha20, shares encrypted by ChaCha20-Poly1305, keys derived by HKDF-SHA256, all
of ``cryptography``; secrets are shared by ``Crypto.Protocol.SecretSharing.Shamir``. All randomness comes from the
operating system.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhello.errors import PrivacyError
from fedhello.privacy.vectors import LEAST

SECRET = 16
"""Bytes of a secret that is shared: 128 bits, the size of one element of Shamir's field."""


def threshold(clients: int) -> int:
    """Return t = ⌈2n/3⌉, how many of a round's n clients must stay: up to a third may leave.

    Args:
        clients: n.
    """
    return max(LEAST, ceil(2 * clients / 3))


@dataclass(frozen=True)
class PublicKeys:
    """What a client tells the others, of 32 bytes each.

    Attributes:
        encryption: c_u, an X25519 public key.
        masks: s_u, likewise.
        commitment: To b_u, by which the server sees that its shares fit together.
    """

    encryption: bytes
    masks: bytes
    commitment: bytes


@dataclass(frozen=True)
class Shares:
    """What a client reveals at the end, of 16 bytes each.

    Attributes:
        own: Client that stayed → the share of the seed of its own mask.
        pairs: Client that left → the share of the seed of its key for masks.
        index: Shamir's index of all of them.
    """

    index: int
    own: Mapping[int, bytes]
    pairs: Mapping[int, bytes]


@dataclass
class Participant:
    """A client's side of one sum; each step is taken once, in order.

    Attributes:
        client: Its id, u.
        purpose: What is summed, such as run, round and attempt; keys of one purpose are of no use for another.
        bits: b, 32 or 64.
    """

    client: int
    purpose: bytes
    bits: int
    _b: bytes = field(init=False, repr=False)
    _s: bytes = field(init=False, repr=False)
    _c: X25519PrivateKey = field(init=False, repr=False)
    _keys: dict[int, PublicKeys] = field(init=False, repr=False)
    _others: tuple[int, ...] = field(default=(), init=False)
    _received: dict[int, tuple[bytes, bytes]] = field(default_factory=dict, init=False, repr=False)
    _step: str = field(default="advertise", init=False)

    def advertise(self) -> PublicKeys:
        """Return this client's public keys."""
        self._take("advertise", "share")
        self._b, self._s, self._c = os.urandom(SECRET), os.urandom(SECRET), X25519PrivateKey.generate()
        return self._public()

    def _public(self) -> PublicKeys:
        s = _mask_key(self._s, self.purpose).public_key().public_bytes_raw()
        return PublicKeys(self._c.public_key().public_bytes_raw(), s, _commitment(self._b, self.purpose))

    def share(self, keys: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Return, for each other client, the encrypted shares of this client's two seeds.

        Args:
            keys: Client → its public keys, this one's among them.

        Raises:
            PrivacyError: If the clients are too few, two have the same key, or this client's keys are not its own.
        """
        self._take("share", "mask")
        n, all_keys = len(keys), [key for one in keys.values() for key in (one.encryption, one.masks)]
        if n < LEAST:
            raise PrivacyError(f"expected at least {LEAST} clients in a sum; found {n}")
        if keys.get(self.client) != self._public() or len(set(all_keys)) < 2 * n:
            raise PrivacyError("expected the keys of different clients, this one's own among them; found others")
        self._keys = dict(sorted(keys.items()))
        t = threshold(n)
        own = dict(Shamir.split(t, n, self._b, ssss=False))
        pairs = dict(Shamir.split(t, n, self._s, ssss=False))
        found = {}
        for index, v in enumerate(self._keys, start=1):
            if v == self.client:
                self._received[v] = own[index], pairs[index]
            else:
                found[v] = self._cipher(v).seal(self.client, v, own[index] + pairs[index])
        return found

    def mask(self, vector: np.ndarray, shares: Mapping[int, bytes]) -> np.ndarray:
        """Return this client's masked vector, of the same shape and type.

        Args:
            vector: x_u, unsigned integers of b bits, shape (m,).
            shares: Client → what it encrypted for this one.

        Raises:
            PrivacyError: If fewer than t clients are left, or a share is not what its client sent.
        """
        self._take("mask", "unmask")
        t = threshold(len(self._keys))
        if len(shares) + 1 < t or not shares.keys() <= self._keys.keys() - {self.client}:
            raise PrivacyError(f"expected the shares of at least {t - 1} other clients; found {len(shares)}")
        self._others = tuple(sorted(shares))
        for v in self._others:
            plain = self._cipher(v).open(v, self.client, shares[v])
            self._received[v] = plain[:SECRET], plain[SECRET:]
        masked: np.ndarray = vector + _stream(self._b, self.purpose, len(vector), self.bits)
        private = _mask_key(self._s, self.purpose)
        for v in self._others:
            mask = _pair_mask(private, self._keys[v].masks, self.purpose, len(vector), self.bits)
            masked = masked + mask if v > self.client else masked - mask
        return masked

    def unmask(self, stayed: Iterable[int]) -> Shares:
        """Return the shares with which the server takes out masks.

        Args:
            stayed: U₃, whose masked vectors came.

        Raises:
            PrivacyError: If fewer than t stayed, or others than those who sent shares.
        """
        self._take("unmask", "done")
        U2, U3, t = {self.client, *self._others}, set(stayed), threshold(len(self._keys))
        if len(U3) < t or not U3 <= U2:
            raise PrivacyError(f"expected at least {t} of the clients that sent shares to have stayed; found {len(U3)}")
        index = 1 + list(self._keys).index(self.client)
        own = {v: self._received[v][0] for v in sorted(U3)}
        return Shares(index, own, {v: self._received[v][1] for v in sorted(U2 - U3)})

    def _cipher(self, other: int) -> "_Cipher":
        shared = _agreed(self._c, self._keys[other].encryption)
        return _Cipher(ChaCha20Poly1305(_derived(shared, self.purpose + b"/shares")), self.purpose)

    def _take(self, step: str, following: str) -> None:
        if self._step != step:
            raise PrivacyError(f"expected each step of a secure sum once and in order, {self._step} now; found {step}")
        self._step = following


@dataclass(frozen=True)
class _Cipher:
    """Encrypts shares between two clients; who sent them to whom is authenticated."""

    key: ChaCha20Poly1305
    purpose: bytes

    def seal(self, sender: int, receiver: int, plain: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self.key.encrypt(nonce, plain, self._who(sender, receiver))

    def open(self, sender: int, receiver: int, sealed: bytes) -> bytes:
        try:
            plain = self.key.decrypt(sealed[:12], sealed[12:], self._who(sender, receiver))
        except (InvalidTag, ValueError):
            plain = b""
        if len(plain) != 2 * SECRET:
            raise PrivacyError(
                f"expected the shares that client {sender} encrypted for client {receiver}; found others"
            )
        return plain

    def _who(self, sender: int, receiver: int) -> bytes:
        return self.purpose + f"/{sender}/{receiver}".encode()


def unmasked(
    total: np.ndarray,
    stayed: Iterable[int],
    keys: Mapping[int, PublicKeys],
    sharing: Iterable[int],
    shares: Iterable[Shares],
    purpose: bytes,
    bits: int,
) -> np.ndarray:
    """Return Σ_{u ∈ U₃} x_u modulo 2^b: the server's side.

    Args:
        total: Σ_{u ∈ U₃} y_u, unsigned integers of b bits, shape (m,).
        stayed: U₃.
        keys: The public keys of all who advertised some.
        sharing: U₂, who sent shares.
        shares: What clients revealed.
        purpose: As the clients have it.
        bits: b.

    Returns:
        Unsigned integers of b bits, shape (m,).

    Raises:
        PrivacyError: If too few clients revealed theirs, or a secret does not fit its client's public key.
    """
    revealed, t = list({one.index: one for one in shares}.values()), threshold(len(keys))
    if len(revealed) < t:
        raise PrivacyError(f"expected {t} clients to stay to the end of a secure sum; found {len(revealed)}")
    U3 = sorted(stayed)
    gone = sorted(set(sharing) - set(U3))
    for u in U3:
        b = _secret([(one.index, one.own[u]) for one in revealed if u in one.own], t)
        if _commitment(b, purpose) != keys[u].commitment:
            raise PrivacyError(f"expected shares that make up the seed of client {u}; found others")
        total = total - _stream(b, purpose, len(total), bits)
    for v in gone:
        private = _mask_key(_secret([(one.index, one.pairs[v]) for one in revealed if v in one.pairs], t), purpose)
        if private.public_key().public_bytes_raw() != keys[v].masks:
            raise PrivacyError(f"expected shares that make up the key of client {v}; found others")
        for u in U3:
            mask = _pair_mask(private, keys[u].masks, purpose, len(total), bits)
            total = total - mask if v > u else total + mask
    return total


def _secret(shares: list[tuple[int, bytes]], t: int) -> bytes:
    if len(shares) < t:
        raise PrivacyError(f"expected {t} shares of a secret; found {len(shares)}")
    return bytes(Shamir.combine(shares[:t], ssss=False))


def _mask_key(seed: bytes, purpose: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_derived(seed, purpose + b"/key"))


def _pair_mask(private: X25519PrivateKey, public: bytes, purpose: bytes, size: int, bits: int) -> np.ndarray:
    return _stream(_agreed(private, public), purpose, size, bits)


def _agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise PrivacyError(f"expected X25519 public keys; {error}") from error


def _commitment(seed: bytes, purpose: bytes) -> bytes:
    return _derived(seed, purpose + b"/commitment")


def _stream(secret: bytes, purpose: bytes, size: int, bits: int) -> np.ndarray:
    """Return ``size`` numbers of ``bits`` bits, uniform for whoever does not know the secret.

    The key is used for one stream alone, so the nonce may be constant.
    """
    encryptor = Cipher(ChaCha20(_derived(secret, purpose + b"/mask"), bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(size * bits // 8)), dtype=f"<u{bits // 8}")


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedhello/" + purpose).derive(secret)
