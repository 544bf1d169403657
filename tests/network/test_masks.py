"""A client's side of secure sums: whatever a server sends, one sentence comes back."""

import pytest

from fedhello.errors import FedhelloError, PrivacyError, UpdateError
from fedhello.network import masks
from fedhello.privacy.masking import Participant, Sealed, Shares


def test_what_is_written_is_read_back():
    keys = Participant(3, b"x", 32).advertise()
    assert masks.read_keys(masks.write_keys(keys)) == keys
    shares = Shares(2, {1: b"a" * 16}, {4: b"b" * 16})
    assert masks.read_shares(masks.write_shares(shares)) == shares
    sealed = Sealed((b"c" * 32, b"d" * 32), {1: b"some", 2: b"more"})
    assert masks.read_sealed(masks.write_sealed(sealed)) == sealed


@pytest.mark.parametrize("text", [None, "", "[]", "{", "1", '{"a": 1}', '{"1": 2}', '{"x": "00"}', "[" * 10**5])
def test_what_is_no_object_of_clients_is_refused(text):
    with pytest.raises(UpdateError, match="expected a JSON object of clients and strings"):
        masks.read_object(text)


@pytest.mark.parametrize("text", [None, "{}", "[1.5]", '["1"]', "[true]", "[" * 10**5])
def test_what_is_no_list_of_clients_is_refused(text):
    with pytest.raises(UpdateError, match="expected a JSON list of clients"):
        masks.read_list(text)


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", '{"index": 0, "own": {}, "pairs": {}}', '{"index": true, "own": {}, "pairs": {}}',
        '{"index": 1, "own": {"1": "00"}, "pairs": {}}', '{"index": 1, "own": {"x": "00"}, "pairs": {}}', None,
    ],
)  # fmt: skip
def test_what_are_no_shares_is_refused(text):
    with pytest.raises(UpdateError):
        masks.read_shares(text)


@pytest.mark.parametrize("text", ["", "zz" * 96, "00" * 63])
def test_what_are_no_keys_is_refused(text):
    with pytest.raises(UpdateError, match="expected public keys of 64 bytes"):
        masks.read_keys(text)


def test_a_purpose_is_used_once_and_old_ones_are_forgotten():
    one = masks.Masks(None)
    fields = {"purpose": "a", "client": 0, "bits": 32}
    assert len(one.keys(fields)["keys"]) == 128
    with pytest.raises(PrivacyError, match="expected a new purpose"):
        one.keys(fields)
    with pytest.raises(PrivacyError):
        one.keys(fields | {"purpose": "b", "bits": 33})
    for n in range(masks.MOST_SUMS):
        one.keys(fields | {"purpose": f"more {n}"})
    with pytest.raises(FedhelloError, match="it may have started anew"):
        one.unmask({"purpose": "a", "stayed": "[0]"})
