import json
import struct

import pytest
import torch

from fedhello.engine.headers import LONGEST_TASK_HEADER, task_header, tensor_header
from fedhello.engine.wire import encode_task, encode_tensors
from fedhello.errors import UpdateError
from fedhello.types import Adapter, Allocation, Task


def body(text, stated=None):
    raw = text.encode()
    return struct.pack("<Q", len(raw) if stated is None else stated) + raw


def test_what_safetensors_state_is_read_without_the_tensors():
    payload = encode_tensors({"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.int64)})
    found = tensor_header(payload, 1000)
    assert (found["a"]["shape"], found["b"]["dtype"]) == ([2, 3], "I64")


@pytest.mark.parametrize(
    "wrong", [b"", b"1234567", body("{}", 99), body("{}", 2**63), body('{"a":1,"a":2}'), body("[]"), body('{"a":NaN}'),
              body("[" * 10**5), body(json.dumps({"a": "x" * 2000}))],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(wrong):
    with pytest.raises(UpdateError):
        tensor_header(wrong, 1000)


def test_the_tensors_of_a_task_begin_where_its_json_ends():
    payload = encode_task(Task(0, 3, Allocation((1, 2)), Adapter({"w": torch.ones(4)}, {"w": 0})))
    header, end = task_header(payload)
    assert header["round"] == 3
    assert tensor_header(payload[end:], 1000)["w"]["shape"] == [4]


@pytest.mark.parametrize("wrong", [b"", b"x", b"[1]", b'{"a":', b"[" * LONGEST_TASK_HEADER])
def test_a_task_without_json_is_refused(wrong):
    with pytest.raises(UpdateError):
        task_header(wrong)
