"""Case 2: bytes that are no update, and lengths beyond all memory."""

import struct
import time
import tracemalloc

import numpy as np
import pytest

from fedhello.engine.wire import MAGIC

HUGE = 2**63
NO_UPDATES = {
    "empty": b"",
    "one byte": b"F",
    "eight bytes that claim a length": struct.pack("<Q", HUGE),
    "magic alone": MAGIC,
    "magic and a length": MAGIC + struct.pack("<I", 2**32 - 1) + bytes(32),
    "random": np.random.default_rng(0).bytes(500),
    "random behind the magic": MAGIC + np.random.default_rng(1).bytes(500),
}


@pytest.mark.parametrize("payload", NO_UPDATES.values(), ids=NO_UPDATES)
def test_what_is_no_update_is_malformed(letter, payload):
    assert letter.reason(payload) == "malformed"


@pytest.mark.parametrize("length", [HUGE, 2**64 - 1, 2**32, 10**6])
def test_a_claimed_length_allocates_nothing_and_takes_no_time(letter, length):
    payload = letter.write(tensors=struct.pack("<Q", length) + b"{}")
    tracemalloc.start()
    begin = time.thread_time()
    assert letter.reason(payload) == "malformed"
    assert time.thread_time() - begin < 0.05
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()


def test_a_shape_beyond_memory_is_refused(letter):
    entry = b'{"a": {"dtype": "F32", "shape": [0, 1099511627776, 1099511627776], "data_offsets": [0, 0]}}'
    assert letter.reason(letter.write_entries(entry), tensors={"a": letter.tensors["a.lora_A.weight"]}) == "malformed"


@pytest.mark.parametrize("entries", [b"[" * 400, b'{"a":' * 300, b"[" * 200 + b"]" * 200])
def test_headers_nested_beyond_reason_are_refused(letter, entries):
    assert letter.reason(letter.write(header=entries), max_bytes=10**6) == "malformed"
    assert letter.reason(letter.write_entries(entries), max_bytes=10**6) == "malformed"
