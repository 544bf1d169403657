"""Secure aggregation: a server learns the sum of its clients' vectors, and nothing else of them.

The protocol of Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS 2017), with
the complete graph among the n clients of a round and the threshold t. All vectors are of whole numbers modulo 2^b.

    advertise   client u → server    the public keys c_u (encryption) and s_u (masks)
    share       server → u           everybody's public keys, and who sends which part (``privacy.parts``)
                u → server           for each v, encrypted to c_v: shares of the seeds of s_u and of all b_u, t of n
    mask        server → u           the shares that the others made for u; U₂ are those who sent some
                u → server           y_u = x_u + PRG(b_u) + Σ_{v ∈ U₂, v > u} PRG(s_uv) − Σ_{v ∈ U₂, v < u} PRG(s_uv)
    unmask      server → u           U₃, those whose y_u came
                u → server           its shares of b_v for v ∈ U₃, and of s_v for the others of U₂

Each part of the vectors is such a sum over those who send it. Masks between clients cancel in it; the server takes out
b_u of those who stayed, and the masks that those who left had with the others. A client never reveals both of b_v and
s_v, and no b_v of a part whose cohort has become too small; it answers each step once, so a server that follows the
messages learns Σ_{u ∈ U₃} x_u alone. One that names different U₃ to different clients would need t answers for each of
two; with t ≥ 2n/3 it does not get them unless a third of the clients work with it. One that tells them different plans
gets nothing, since shares are encrypted under keys that depend on the plan.

Not proved here: that the public keys are those of real clients (see ``network.vouching``). A server that invents all
clients but one learns that one's vector. Nor are values proved to lie in any range: a client that sends garbage spoils
the sum of its round.

Flower's SecAgg+ is not used: it runs under the legacy strategies alone, drops arrays where clients' sets differ, and
draws masks from a Mersenne twister that is seeded with 32 bits (``pseudo_rand_gen``), which anyone can try. Here keys
are agreed by X25519, masks drawn by ChaCha20, shares encrypted by ChaCha20-Poly1305, keys derived by HKDF-SHA256, all
of ``cryptography``; secrets are shared by ``Crypto.Protocol.SecretSharing.Shamir``. All randomness comes from the
operating system.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhello.errors import PrivacyError
from fedhello.privacy.parts import Layout, threshold

SECRET = 16
"""Bytes of a secret that is shared: 128 bits, the size of one element of Shamir's field."""


@dataclass(frozen=True)
class PublicKeys:
    """What a client tells the others.

    Attributes:
        encryption: c_u, an X25519 public key of 32 bytes.
        masks: s_u, likewise.
        vouched: Who has signed them, and the signature; empty without one.
    """

    encryption: bytes
    masks: bytes
    vouched: bytes = field(default=b"", compare=False)


@dataclass(frozen=True)
class Sealed:
    """What a client hands out of its secrets.

    Attributes:
        commitments: To each of its seeds b_u, of 32 bytes, by which the server sees that their shares fit together.
        shares: Other client → what is encrypted for it.
    """

    commitments: tuple[bytes, ...]
    shares: Mapping[int, bytes]


@dataclass(frozen=True)
class Shares:
    """What a client reveals at the end, of 16 bytes each.

    Attributes:
        index: Shamir's index of all of them.
        own: Client that stayed → the shares of those seeds of its own masks that may be opened, one after the other.
        pairs: Client that left → the share of the seed of its key for masks.
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
    _b: dict[int, bytes] = field(init=False, repr=False)
    _s: bytes = field(init=False, repr=False)
    _c: X25519PrivateKey = field(init=False, repr=False)
    _keys: dict[int, PublicKeys] = field(init=False, repr=False)
    _layout: Layout = field(init=False, repr=False)
    _told: bytes = field(default=b"", init=False, repr=False)
    _others: tuple[int, ...] = field(default=(), init=False)
    _received: dict[int, bytes] = field(default_factory=dict, init=False, repr=False)
    _step: str = field(default="advertise", init=False)

    def advertise(self) -> PublicKeys:
        """Return this client's public keys."""
        self._take("advertise", "share")
        self._s, self._c = os.urandom(SECRET), X25519PrivateKey.generate()
        return self._public()

    def _public(self) -> PublicKeys:
        s = _mask_key(self._s, self.purpose).public_key().public_bytes_raw()
        return PublicKeys(self._c.public_key().public_bytes_raw(), s)

    def share(self, keys: Mapping[int, PublicKeys], layout: Layout, told: bytes = b"") -> Sealed:
        """Return, for each other client, the encrypted shares of this client's seeds.

        Args:
            keys: Client → its public keys, this one's among them.
            layout: The parts of the vectors.
            told: The plan that they come of, as the server stated it.

        Raises:
            PrivacyError: If two clients have the same key, or this client's keys are not its own.
        """
        self._take("share", "mask")
        n, all_keys = len(keys), [key for one in keys.values() for key in (one.encryption, one.masks)]
        if keys.get(self.client) != self._public() or len(set(all_keys)) < 2 * n or sorted(keys) != [*layout.clients]:
            raise PrivacyError("expected the keys of different clients, this one's own among them; found others")
        self._keys, self._layout, self._told = dict(sorted(keys.items())), layout, _digest(told)
        self._b = {seed: os.urandom(SECRET) for seed in layout.seeds_of(self.client)}
        split = [dict(Shamir.split(threshold(n), n, secret, ssss=False)) for secret in (self._s, *self._b.values())]
        found = {}
        for index, v in enumerate(self._keys, start=1):
            own = b"".join(shares[index] for shares in split)
            if v == self.client:
                self._received[v] = own
            else:
                found[v] = self._cipher(v).seal(self.client, v, own)
        return Sealed(tuple(_commitment(b, self.purpose) for b in self._b.values()), found)

    def mask(self, vector: np.ndarray, shares: Mapping[int, bytes]) -> np.ndarray:
        """Return what this client sends of its vector, masked, part by part.

        Args:
            vector: x_u, unsigned integers of b bits, shape (m,).
            shares: Client → what it encrypted for this one.

        Raises:
            PrivacyError: If fewer than t clients are left, a share is not what its client sent, or the vector has
                another length.
        """
        self._take("mask", "unmask")
        t = threshold(len(self._keys))
        if len(shares) + 1 < t or not shares.keys() <= self._keys.keys() - {self.client}:
            raise PrivacyError(f"expected the shares of at least {t - 1} other clients; found {len(shares)}")
        if len(vector) != self._layout.length:
            raise PrivacyError(f"expected a vector of {self._layout.length} numbers; found {len(vector)}")
        self._others = tuple(sorted(shares))
        for v in self._others:
            size = SECRET * (1 + len(self._layout.seeds_of(v)))
            self._received[v] = self._cipher(v).open(v, self.client, shares[v], size)
        private = _mask_key(self._s, self.purpose)
        agreed = {v: _agreed(private, self._keys[v].masks) for v in self._others}
        masked = []
        for number in self._layout.sent_by(self.client):
            part, stream = self._layout.parts[number], _Stream(self.purpose, number, self.bits)
            own = vector[part.at] + stream.of(self._b[self._layout.seeds[number]], len(part.at))
            for v in sorted(agreed.keys() & set(part.senders)):
                mask = stream.of(agreed[v], len(part.at))
                own = own + mask if v > self.client else own - mask
            masked.append(own)
        return np.concatenate(masked)

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
        own = {}
        for v in sorted(U3):
            seeds, may = self._layout.seeds_of(v), seeds_opened(self._layout, v, U3)
            own[v] = b"".join(_nth(self._received[v], 1 + i) for i, seed in enumerate(seeds) if seed in may)
        return Shares(index, own, {v: _nth(self._received[v], 0) for v in sorted(U2 - U3)})

    def _cipher(self, other: int) -> "_Cipher":
        shared = _agreed(self._c, self._keys[other].encryption)
        return _Cipher(ChaCha20Poly1305(_derived(shared, self.purpose + b"/shares/" + self._told)), self.purpose)

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

    def open(self, sender: int, receiver: int, sealed: bytes, size: int) -> bytes:
        try:
            plain = self.key.decrypt(sealed[:12], sealed[12:], self._who(sender, receiver))
        except (InvalidTag, ValueError):
            plain = b""
        if len(plain) != size:
            raise PrivacyError(
                f"expected the shares that client {sender} encrypted for client {receiver}; found others"
            )
        return plain

    def _who(self, sender: int, receiver: int) -> bytes:
        return self.purpose + f"/{sender}/{receiver}".encode()


def seeds_opened(layout: Layout, client: int, stayed: Iterable[int]) -> list[int]:
    """Return which seeds of a client that stayed are revealed: those of parts that may be opened, ascending."""
    may = set(layout.opened(stayed))
    return sorted({layout.seeds[number] for number in layout.sent_by(client) if number in may})


@dataclass
class MaskedSum:
    """The server's side of one sum over a group of clients.

    Attributes:
        purpose: What is summed, as the clients have it.
        bits: b.
        keys: Client → its public keys; those who advertised some.
        layout: The parts of the vectors.
        told: The plan that they come of, as clients are told it.
        sealed: U₂: client → what it handed out of its secrets.
        stayed: U₃: the clients whose masked vectors came.
    """

    purpose: str
    bits: int
    keys: dict[int, PublicKeys] = field(default_factory=dict)
    layout: Layout = field(init=False)
    told: str = ""
    sealed: dict[int, Sealed] = field(default_factory=dict)
    stayed: list[int] = field(default_factory=list)
    _totals: dict[int, np.ndarray] = field(default_factory=dict)

    def received_by(self, client: int) -> dict[int, bytes]:
        """Return what the others encrypted for a client."""
        return {v: one.shares[client] for v, one in self.sealed.items() if v != client}

    def size(self, client: int) -> int:
        """Return the bytes of a client's masked vector."""
        return self.bits // 8 * sum(len(self.layout.parts[number].at) for number in self.layout.sent_by(client))

    def add(self, client: int, masked: np.ndarray) -> None:
        """Add what a client sent, part by part."""
        begin = 0
        for number in self.layout.sent_by(client):
            end = begin + len(self.layout.parts[number].at)
            self._totals[number] = self._totals.get(number, np.zeros((), dtype=masked.dtype)) + masked[begin:end]
            begin = end
        self.stayed.append(client)

    def opened(self, shares: Sequence[Shares]) -> np.ndarray:
        """Return Σ_{u ∈ U₃} x_u modulo 2^b.

        Args:
            shares: What clients revealed.

        Returns:
            Unsigned integers of b bits, shape (m,); zeros in the parts that are not opened.

        Raises:
            PrivacyError: If too few clients revealed theirs, or a secret does not fit what its client committed to.
        """
        revealed, t = list({one.index: one for one in shares}.values()), threshold(len(self.keys))
        if len(revealed) < t:
            raise PrivacyError(f"expected {t} clients to stay to the end of a secure sum; found {len(revealed)}")
        own = {u: self._own_seeds(u, revealed, t) for u in self.stayed}
        gone = {v: self._mask_key(v, revealed, t) for v in sorted(self.sealed.keys() - set(self.stayed))}
        agreed = {(u, v): _agreed(gone[v], self.keys[u].masks) for v in gone for u in self.stayed}
        found = np.zeros(self.layout.length, dtype=f"<u{self.bits // 8}")
        for number in self.layout.opened(self.stayed):
            part, stream = self.layout.parts[number], _Stream(self.purpose.encode(), number, self.bits)
            total, size, senders = self._totals[number], len(part.at), set(part.senders)
            for u in sorted(senders & own.keys()):
                total = total - stream.of(own[u][self.layout.seeds[number]], size)
                for v in sorted(senders & gone.keys()):
                    mask = stream.of(agreed[u, v], size)
                    total = total - mask if v > u else total + mask
            found[part.at] = total
        return found

    def _own_seeds(self, client: int, revealed: Sequence[Shares], t: int) -> dict[int, bytes]:
        """Return the seeds of a client's own masks that may be opened, by number."""
        commitments = dict(zip(self.layout.seeds_of(client), self.sealed[client].commitments, strict=True))
        found = {}
        for i, seed in enumerate(seeds_opened(self.layout, client, self.stayed)):
            found[seed] = _secret([(one.index, _nth(one.own[client], i)) for one in revealed if client in one.own], t)
            if _commitment(found[seed], self.purpose.encode()) != commitments[seed]:
                raise PrivacyError(f"expected shares that make up the seed of client {client}; found others")
        return found

    def _mask_key(self, client: int, revealed: Sequence[Shares], t: int) -> X25519PrivateKey:
        secret = _secret([(one.index, one.pairs[client]) for one in revealed if client in one.pairs], t)
        private = _mask_key(secret, self.purpose.encode())
        if private.public_key().public_bytes_raw() != self.keys[client].masks:
            raise PrivacyError(f"expected shares that make up the key of client {client}; found others")
        return private


def _nth(shares: bytes, n: int) -> bytes:
    return shares[SECRET * n : SECRET * (n + 1)]


def _secret(shares: list[tuple[int, bytes]], t: int) -> bytes:
    if len(shares) < t:
        raise PrivacyError(f"expected {t} shares of a secret; found {len(shares)}")
    return bytes(Shamir.combine(shares[:t], ssss=False))


def _mask_key(seed: bytes, purpose: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_derived(seed, purpose + b"/key"))


def _agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise PrivacyError(f"expected X25519 public keys; {error}") from error


def _commitment(seed: bytes, purpose: bytes) -> bytes:
    return _derived(seed, purpose + b"/commitment")


def _digest(told: bytes) -> bytes:
    digest = Hash(SHA256())
    digest.update(told)
    return digest.finalize()


@dataclass(frozen=True)
class _Stream:
    """Masks of one part: numbers that are uniform for whoever does not know the secret they are drawn from."""

    purpose: bytes
    part: int
    bits: int

    def of(self, secret: bytes, size: int) -> np.ndarray:
        """Return ``size`` numbers; a key is used for one stream alone, so the nonce may be constant."""
        key = _derived(secret, self.purpose + f"/mask/{self.part}".encode())
        masks = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size * self.bits // 8))
        return np.frombuffer(masks, dtype=f"<u{self.bits // 8}")


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedhello/" + purpose).derive(secret)
