"""Case 10: whatever comes, the door answers with an update or a rejection."""

import json
import time
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.engine.wire import decode, encode_tensors
from fedhello.types import Rejection, Update

CASES = 10_000
KEYS = ["run", "client", "round", "samples", "metrics"]
few = settings(max_examples=200, deadline=None, derandomize=True)


def check(letter, payload):
    """Decode, and hold what is taken against what was asked; return whether it was taken."""
    begin = time.thread_time()
    found = decode(payload, letter.expected)
    assert time.thread_time() - begin < 0.05
    if isinstance(found, Rejection):
        return False
    assert isinstance(found, Update)
    assert 1 <= found.samples <= 40
    assert {n: (v.shape, v.dtype) for n, v in found.tensors.items()} == {
        n: (v.shape, v.dtype) for n, v in letter.tensors.items()
    }
    assert all(bool(value.isfinite().all()) for value in found.tensors.values())
    return True


def mutated(rng, data):
    """Change, cut, repeat or insert a few bytes."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                data[at : at + 1] = rng.bytes(1)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = rng.bytes(length)
            case 3:
                data[at:at] = data[at : at + length]
            case _:
                data[at : at + 1] = rng.choice([b"0", b"9", b"-", b"[", b'"', b",", b"e", b"}"])
    return bytes(data)


def test_ten_thousand_damaged_updates(letter):
    """A digest that fits is put on three of four, so that what lies behind it is met too."""
    rng = np.random.default_rng(0)
    header, body = letter.header(), encode_tensors(letter.tensors)
    taken = 0
    for case in range(CASES):
        match case % 4:
            case 0:
                payload = mutated(rng, letter.good)
            case 1:
                payload = letter.write(mutated(rng, header), body)
            case 2:
                payload = letter.write(header, mutated(rng, body))
            case _:
                payload = letter.write(mutated(rng, header), mutated(rng, body))
        taken += check(letter, payload)
    assert 0 < taken < CASES / 4, "some changes are harmless: a digit of a value or of a metric"


@few
@given(payload=st.binary(max_size=300))
def test_any_bytes(letter, payload):
    assert not check(letter, payload)


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@few
@given(
    header=plain_json | st.dictionaries(st.sampled_from(["run", "client", "round", "samples", "metrics"]), plain_json)
)
def test_any_json_header(letter, header):
    check(letter, letter.write(header=json.dumps(header).encode()))
    if isinstance(header, dict):
        check(letter, letter.write(header=letter.header(**header)))


@few
@given(
    dtype=st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F4", "F8_E4M3", "C64", "X1"]),
    shape=st.lists(st.integers(-1, 5), max_size=3),
    begin=st.integers(-1, 8),
    end=st.integers(0, 32),
)
def test_any_entry_of_a_tensor(letter, dtype, shape, begin, end):
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}
    payload = letter.write_entries(json.dumps(entry).encode(), bytes(max(end, 0)))
    found = decode(payload, replace(letter.expected, tensors={"a": torch.zeros(2, 3)}))
    assert isinstance(found, Rejection) or dtype == "F32"


def test_numbers_beyond_all_digits_are_no_numbers(letter):
    for digits in (400, 1900):
        header = letter.header().replace(b'"samples": 40', b'"samples": 4' + b"0" * digits)
        assert letter.reason(letter.write(header=header), max_bytes=10**5) in ("wrong count", "malformed")
        entries = b'{"a": {"dtype": "F32", "shape": [4' + b"0" * digits + b'], "data_offsets": [0, 4]}}'
        assert letter.reason(letter.write_entries(entries), max_bytes=10**5) in ("wrong tensors", "malformed")
