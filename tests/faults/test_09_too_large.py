"""Case 9: more bytes than the plan expects are refused before they are looked at."""

import hashlib
import time
import tracemalloc

import pytest

from fedhello.engine import wire


def test_a_payload_above_the_limit_is_not_read(letter, monkeypatch):
    limit = letter.expected.limit
    assert letter.reason(bytes(limit)) == "malformed"
    assert letter.reason(wire.MAGIC + bytes(limit - 3)) == "too large"
    assert letter.reason(letter.good, max_bytes=len(letter.good)) is None
    monkeypatch.setattr(hashlib, "sha256", lambda *_: pytest.fail("it was read"))
    assert letter.reason(letter.good, max_bytes=len(letter.good) - 1) == "too large"


def test_even_a_huge_one_takes_neither_time_nor_memory(letter):
    payload = bytes(10**8)
    tracemalloc.start()
    begin = time.thread_time()
    assert letter.reason(payload) == "too large"
    assert time.thread_time() - begin < 0.05
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()
