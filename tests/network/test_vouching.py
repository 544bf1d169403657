"""Keys of a secure sum that clients sign, and owners who accept those of clients they know alone."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedhello.errors import ConfigError
from fedhello.network.keys import make_client_key
from fedhello.network.masks import read_keys, write_keys
from fedhello.network.refusals import RefusalError
from fedhello.network.vouching import Vouching, read_vouching
from fedhello.privacy.masking import Participant

PURPOSE = "run/round/0/1"


@pytest.fixture
def known(tmp_path):
    """Four clients with keys, whose owners trust the first three."""
    files = [make_client_key(f"client-{k}", tmp_path) for k in range(4)]
    trusted = tmp_path / "trusted"
    trusted.write_text("\n".join(public.read_text() for _, public in files[:3]))
    return [read_vouching(str(private), trusted) for private, _ in files]


def signed(known, purpose=PURPOSE, **others):
    keys = {k: Participant(k, purpose.encode(), 32).advertise() for k in range(3)}
    by = {k: others.get(f"of_{k}", known[k]) for k in keys}
    found = {k: by[k].signed(one, purpose, k) for k, one in keys.items()}
    return {k: read_keys(write_keys(one)) for k, one in found.items()}


def test_keys_that_trusted_clients_signed_are_accepted(known):
    keys = signed(known)
    for one in known[:3]:
        one.check(keys, PURPOSE)
    Vouching().check({k: replace(one, vouched=b"") for k, one in keys.items()}, PURPOSE)


def test_keys_that_a_server_may_have_made_are_refused(known):
    """Unsigned, by an unknown key, twice by one; of another sum, of another client, or changed after signing."""
    right = signed(known)
    made_up = {
        "unsigned": signed(known, of_1=Vouching()),
        "unknown": signed(known, of_1=known[3]),
        "twice": signed(known, of_1=known[0]),
        "another sum": signed(known, "run/round/0/2"),
        "another client": right | {1: right[2], 2: right[1]},
        "changed": right | {1: replace(right[1], masks=right[0].masks)},
        "cut": right | {1: replace(right[1], vouched=right[1].vouched[:-1])},
    }
    for what, keys in made_up.items():
        with pytest.raises(RefusalError, match=r"trusted \(of the consent\), as this client's owner allows") as caught:
            known[0].check(keys, PURPOSE)
        assert caught.value.code == "not allowed", what


def test_files_that_are_not_of_such_keys_are_refused(known, tmp_path):
    key, trusted = str(tmp_path / "client-0"), tmp_path / "trusted"
    other = Ed25519PrivateKey.generate()
    (tmp_path / "other").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (tmp_path / "other.pub").write_bytes(other.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    with pytest.raises(ConfigError, match=r"expected a key \(--key\) with trusted of the consent"):
        read_vouching(None, trusted)
    for public in (tmp_path / "none", tmp_path / "client-0", tmp_path / "other.pub"):
        with pytest.raises(ConfigError, match="expected public keys"):
            read_vouching(key, public)
    for private in (tmp_path / "none", trusted, tmp_path / "other"):
        with pytest.raises(ConfigError, match="expected a private key that fedhello keys client makes in"):
            read_vouching(str(private), trusted)
    assert read_vouching(None, None) == Vouching()
