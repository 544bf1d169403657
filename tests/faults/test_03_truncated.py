"""Case 3: updates cut short, with something behind their end, overlapping or with a key twice."""

import json

import pytest
import torch

from fedhello.engine.wire import encode_tensors

A, B = "a.lora_A.weight", "b.lora_B.weight"
ENTRY_A = b'"a.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}'
ENTRY_B = b'"b.lora_B.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [24, 32]}'


def test_no_truncation_is_taken(letter):
    assert all(letter.reason(letter.good[:length]) in ("malformed", "checksum") for length in range(len(letter.good)))


def test_no_truncation_with_a_digest_that_fits_is_taken(letter):
    body = encode_tensors(letter.tensors)
    assert {letter.reason(letter.write(tensors=body[:length])) for length in range(len(body))} == {"malformed"}


def test_nothing_may_follow(letter):
    assert letter.reason(letter.good + b"\0") == "checksum"
    assert letter.reason(letter.write(tensors=encode_tensors(letter.tensors) + b"\0")) == "malformed"


def test_the_header_made_by_hand_is_right(letter):
    assert letter.reason(letter.write_entries(b"{" + ENTRY_A + b"," + ENTRY_B + b"}", bytes(32))) is None


@pytest.mark.parametrize(
    ("begin", "end"), [(20, 28), (0, 8), (24, 31), (24, 33), (25, 33), (32, 24), (-8, 0), (24, 2**63)]
)
def test_offsets_that_overlap_leave_a_gap_or_are_none(letter, begin, end):
    other = ENTRY_B.replace(b"[24, 32]", json.dumps([begin, end]).encode())
    assert letter.reason(letter.write_entries(b"{" + ENTRY_A + b"," + other + b"}", bytes(32))) == "malformed"


def test_a_tensor_that_comes_twice_is_refused(letter):
    twice = b"{" + b",".join([ENTRY_A, ENTRY_B, ENTRY_A]) + b"}"
    assert letter.reason(letter.write_entries(twice, bytes(32))) == "malformed"


@pytest.mark.parametrize("key", ["client", "samples", "metrics", "loss"])
def test_a_key_that_comes_twice_is_refused(letter, key):
    header = letter.header()
    again = header.replace(f'"{key}":'.encode(), f'"{key}": 3, "{key}":'.encode(), 1)
    assert again != header
    assert "a key comes twice" in letter.detail(letter.write(header=again))


def test_metadata_beside_the_tensors_are_refused(letter):
    entries = b'{"__metadata__": {"format": "pt"},' + ENTRY_A + b"," + ENTRY_B + b"}"
    assert letter.reason(letter.write_entries(entries, bytes(32))) == "wrong tensors"


def test_an_update_of_nothing_where_something_was_asked(letter):
    assert letter.reason(letter.write(tensors={})) == "wrong tensors"
    assert letter.reason(letter.write(tensors={A: letter.tensors[A], B: torch.zeros(0)})) == "wrong tensors"
