import json
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.engine.wire import MAGIC, Expected, decode_update, encode_tensors, encode_update
from fedhello.errors import UpdateError
from fedhello.types import Update

TENSORS = {"a.lora_A.weight": torch.arange(6.0).reshape(2, 3) / 7, "b.lora_B.weight": torch.tensor([[1.0], [-2.0]])}
HEADER = {"client": 3, "round": 5, "samples": 40, "metrics": {"loss": 0.25, "steps": 4.0}}
UPDATE = Update(client=3, round=5, samples=40, tensors=TENSORS, metrics=HEADER["metrics"])
EXPECTED = Expected(client=3, round=5, samples=40, tensors={name: torch.zeros_like(t) for name, t in TENSORS.items()})
GOOD = encode_update(UPDATE)

few = settings(max_examples=300, deadline=None, derandomize=True)


def message(header=HEADER, tensors=TENSORS, magic=MAGIC):
    """Put an update together by hand; header and tensors may be bytes already."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = tensors if isinstance(tensors, bytes) else safetensors.torch.save(tensors)
    return struct.pack("<4sI", magic, len(packed)) + packed + body


def decode(payload, expected=EXPECTED):
    return decode_update(payload, expected, bytes_down=0)


def refusal(payload, expected=EXPECTED):
    with pytest.raises(UpdateError) as caught:
        decode(payload, expected)
    return str(caught.value)


# what is right comes through


def test_an_update_comes_back_as_it_was_and_knows_its_size():
    found = decode_update(GOOD, EXPECTED, bytes_down=123)
    assert (found.client, found.round, found.samples) == (3, 5, 40)
    assert found.metrics == {"loss": 0.25, "steps": 4.0}
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert (found.bytes_down, found.bytes_up) == (123, len(GOOD))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_tensors_come_back_bit_for_bit(dtype, shape, seed):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    update = Update(client=3, round=5, samples=40, tensors={"x": value})
    found = decode(encode_update(update), Expected(3, 5, 40, {"x": value})).tensors["x"]
    assert found.dtype == dtype
    assert found.shape == value.shape
    assert found.flatten().view(torch.uint8).tolist() == value.flatten().view(torch.uint8).tolist()


def test_negative_zero_and_the_smallest_number_survive():
    value = torch.tensor([-0.0, 0.0, 1e-45, -3.4028234663852886e38])
    update = Update(client=3, round=5, samples=40, tensors={"x": value})
    found = decode(encode_update(update), Expected(3, 5, 40, {"x": value})).tensors["x"]
    assert found.view(torch.int32).tolist() == value.view(torch.int32).tolist()


def test_a_view_is_sent_as_what_it_shows():
    value = torch.arange(6.0).reshape(2, 3).T
    update = Update(client=3, round=5, samples=40, tensors={"x": value})
    assert torch.equal(decode(encode_update(update), Expected(3, 5, 40, {"x": value})).tensors["x"], value)


def test_tensors_going_down_are_plain_safetensors():
    found = safetensors.torch.load(encode_tensors(TENSORS))
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_the_hand_made_message_is_right_when_nothing_is_changed():
    assert decode(message()).metrics == HEADER["metrics"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_that_are_not_finite_are_never_sent(value):
    with pytest.raises(ValueError, match="finite"):
        encode_update(Update(client=3, round=5, samples=40, tensors=TENSORS, metrics={"loss": value}))


def test_metrics_take_equally_many_bytes_whatever_their_values():
    sizes = {
        len(encode_update(Update(client=3, round=5, samples=40, tensors=TENSORS, metrics={"seconds": value})))
        for value in (0.0, 1.0, 1 / 3, 123456.789, 5e-7)
    }
    assert len(sizes) == 1


def test_metrics_keep_nine_digits_and_odd_names():
    metrics = {'a "quoted" näme': 1 / 3, "large": 1.5e300, "count": 12345678.0, "negative": -0.125}
    found = decode(encode_update(Update(client=3, round=5, samples=40, tensors=TENSORS, metrics=metrics))).metrics
    assert found == pytest.approx(metrics, rel=1e-9)
    assert (found["count"], found["negative"]) == (12345678.0, -0.125)


# what is wrong does not


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, 8, 20, len(GOOD) // 2, len(GOOD) - 24, len(GOOD) - 1])
def test_a_truncated_update_is_malformed(length):
    assert "client 3 in round 5; the message is malformed" in refusal(GOOD[:length])


def test_every_truncation_is_refused():
    for length in range(len(GOOD)):
        assert "malformed" in refusal(GOOD[:length])


def test_bytes_behind_the_end_are_malformed():
    assert "malformed" in refusal(GOOD + b"\0")


@pytest.mark.parametrize("magic", [b"FHU2", b"PK\3\4", b"\0\0\0\0"])
def test_another_magic_is_malformed(magic):
    assert "malformed: it does not begin as an update" in refusal(message(magic=magic))


def test_random_bytes_are_malformed():
    assert "malformed" in refusal(np.random.default_rng(0).bytes(500))


def test_random_bytes_behind_the_magic_are_malformed():
    assert "malformed" in refusal(MAGIC + np.random.default_rng(0).bytes(500))


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b'"text"', b"{}", {"client": 3, "round": 5, "samples": 40}],
)
def test_a_header_that_is_no_object_with_metrics_is_malformed(header):
    assert "malformed" in refusal(message(header))


@pytest.mark.parametrize("metrics", [None, 3, [], "loss", {"loss": "low"}, {"loss": None}, {"loss": []}, {"loss": {}}])
def test_metrics_that_are_not_numbers_are_malformed(metrics):
    assert "malformed" in refusal(message({**HEADER, "metrics": metrics}))


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b'"nan"', b"1e999"])
def test_metrics_that_are_not_finite_are_malformed(value):
    header = json.dumps(HEADER).encode()
    assert b"0.25" in header
    assert "malformed" in refusal(message(header.replace(b"0.25", value)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client", 4),
        ("round", 4),
        ("samples", 41),
        ("samples", -40),
        ("client", "3"),
        ("round", None),
        ("samples", [40]),
    ],
)
def test_another_client_round_or_sample_count_is_named(key, value):
    right = HEADER[key]
    found = refusal(message({**HEADER, key: value}))
    assert found == f"expected {key} {right} from client 3 in round 5; found {value!r}"


@pytest.mark.parametrize("key", ["client", "round", "samples"])
def test_a_header_without_client_round_or_samples_is_refused(key):
    assert f"expected {key}" in refusal(message({k: v for k, v in HEADER.items() if k != key}))


def test_a_missing_tensor_is_named():
    assert "'b.lora_B.weight' is missing" in refusal(message(tensors={"a.lora_A.weight": TENSORS["a.lora_A.weight"]}))


def test_no_tensors_at_all_are_refused():
    assert "'a.lora_A.weight' is missing" in refusal(message(tensors={}))


def test_a_tensor_that_was_not_allocated_is_named():
    assert "'c' was not allocated" in refusal(message(tensors={**TENSORS, "c": torch.ones(1)}))


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 3), (2, 1), (1,), (), (1, 2, 3), (2, 3, 1), (0, 3)])
def test_another_shape_is_refused_also_one_that_would_broadcast(shape):
    found = refusal(message(tensors={**TENSORS, "a.lora_A.weight": torch.ones(shape)}))
    assert found == (
        "expected 'a.lora_A.weight' from client 3 in round 5 as torch.float32 of shape (2, 3); "
        f"found torch.float32 of shape {shape}"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_another_dtype_is_refused(dtype):
    found = refusal(message(tensors={**TENSORS, "a.lora_A.weight": torch.ones(2, 3).to(dtype)}))
    assert f"found {dtype} of shape (2, 3)" in found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_refused(value):
    bad = TENSORS["b.lora_B.weight"].clone()
    bad[1, 0] = value
    assert "'b.lora_B.weight' holds NaN or infinity" in refusal(message(tensors={**TENSORS, "b.lora_B.weight": bad}))


# whatever comes: an update or an UpdateError


def decode_or_refuse(payload):
    try:
        found = decode(payload)
    except UpdateError:
        return
    assert found.tensors.keys() == TENSORS.keys()
    assert all(found.tensors[name].shape == TENSORS[name].shape for name in TENSORS)


@few
@given(payload=st.binary(max_size=300))
def test_any_bytes(payload):
    decode_or_refuse(payload)


@few
@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_changed_bytes(changes):
    payload = bytearray(GOOD)
    for position, value in changes:
        payload[position] = value
    decode_or_refuse(bytes(payload))


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@few
@given(header=plain_json | st.fixed_dictionaries(dict.fromkeys(HEADER, plain_json)))
def test_any_json_header(header):
    decode_or_refuse(message(header))


@few
@given(
    dtype=st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F4", "F8_E4M3", "C64", "X1"]),
    shape=st.lists(st.integers(-1, 5), max_size=3),
    begin=st.integers(-1, 8),
    end=st.integers(0, 32),
)
def test_any_tensor_header(dtype, shape, begin, end):
    entry = {"a.lora_A.weight": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}
    packed = json.dumps(entry).encode()
    decode_or_refuse(message(tensors=struct.pack("<Q", len(packed)) + packed + bytes(max(end, 0))))


# found by fuzzing


def test_numbers_too_large_for_a_float_are_refused():
    assert "malformed" in refusal(
        message(b'{"client":3,"round":5,"samples":40,"metrics":{"loss":1' + b"0" * 400 + b"}}")
    )


def test_a_header_nested_beyond_reason_is_refused():
    assert "malformed" in refusal(message(b"[" * 100_000 + b"]" * 100_000))


def test_a_shape_beyond_memory_is_refused():
    entry = {"a": {"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}
    header = json.dumps(entry).encode()
    assert "malformed" in refusal(message(tensors=struct.pack("<Q", len(header)) + header))


@pytest.mark.parametrize("changes", [{"client": True}, {"round": 5.0}, {"samples": "40"}])
def test_whole_numbers_are_whole_numbers(changes):
    expected = Expected(1, 5, 40, EXPECTED.tensors) if "client" in changes else EXPECTED
    refusal(message(HEADER | {"client": expected.client} | changes), expected)


@pytest.mark.parametrize("value", ["1.5", True, None, [1]])
def test_a_metric_that_is_no_number_is_refused(value):
    assert "metric" in refusal(message(HEADER | {"metrics": {"loss": value}}))
