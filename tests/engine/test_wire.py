from dataclasses import replace

import pytest
import safetensors.torch
import torch

from fedhello.client.settings import METRICS
from fedhello.engine.wire import (
    RUN_ID,
    Expected,
    decode,
    encode_tensors,
    encode_update,
    expect,
    upload_bound,
)
from fedhello.types import Adapter, Allocation, Task, Update

TENSORS = {"a.lora_A.weight": torch.arange(6.0).reshape(2, 3) / 7, "b.lora_B.weight": torch.tensor([[1.0], [-2.0]])}
MEASURED = {name: float(i + 1) for i, name in enumerate(METRICS)}
UPDATE = Update(client=3, round=5, samples=40, tensors=TENSORS, metrics=MEASURED)
EXPECTED = Expected(client=3, round=5, samples=40, tensors={name: torch.zeros_like(t) for name, t in TENSORS.items()})


def test_an_update_comes_back_as_it_was_and_knows_its_size():
    good = encode_update(UPDATE, "a run")
    found = decode(good, replace(EXPECTED, run="a run", bytes_down=123))
    assert (found.client, found.round, found.samples) == (3, 5, 40)
    assert found.metrics == MEASURED
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert (found.bytes_down, found.bytes_up) == (123, len(good))


def test_what_a_task_makes_expect_is_what_its_client_returns():
    adapter = Adapter({**TENSORS, "other": torch.ones(5)}, {**dict.fromkeys(TENSORS, 0), "other": 1})
    found = expect(Task(3, 5, Allocation((0,)), adapter), samples=40, run="a run", bytes_down=123)
    assert decode(encode_update(UPDATE, "a run"), found).bytes_down == 123


def test_the_limit_leaves_a_tenth_above_the_longest_update():
    longest = replace(UPDATE, client=10**9, round=10**6, samples=10**9, metrics=dict.fromkeys(METRICS, -1.0))
    adapter = Adapter(TENSORS, dict.fromkeys(TENSORS, 0))
    (block,), rest = upload_bound(adapter, METRICS)
    assert len(encode_update(longest, "x" * RUN_ID)) <= block + rest
    assert EXPECTED.limit == int(1.1 * (block + rest))


def test_the_id_of_a_run_has_an_end():
    with pytest.raises(ValueError, match="at most 32 characters"):
        encode_update(UPDATE, "x" * 33)


def test_a_view_is_sent_as_what_it_shows():
    value = torch.arange(6.0).reshape(2, 3).T
    found = decode(encode_update(replace(UPDATE, tensors={"x": value})), replace(EXPECTED, tensors={"x": value}))
    assert torch.equal(found.tensors["x"], value)


def test_tensors_going_down_are_plain_safetensors():
    found = safetensors.torch.load(encode_tensors(TENSORS))
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


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


def test_metrics_keep_nine_digits():
    metrics = MEASURED | {"loss": 1 / 3, "peak_bytes": 12345678.0, "seconds": 1.5e-7}
    found = decode(encode_update(replace(UPDATE, metrics=metrics)), EXPECTED).metrics
    assert found == pytest.approx(metrics, rel=1e-9)
    assert found["peak_bytes"] == 12345678.0


def test_a_lower_rank_that_may_come_is_filled_up_with_zeros_and_any_other_is_refused():
    """Of rank 4 a client may keep 3 alone: all of its factors, or none."""
    whole = {"a.lora_A.weight": torch.ones(4, 5), "a.lora_B.weight": torch.ones(6, 4), "head": torch.ones(2)}
    expected = replace(EXPECTED, tensors={n: v.to("meta") for n, v in whole.items()}, kept=3)

    def answer(rank_A, rank_B, expected=expected):
        sent = {**whole, "a.lora_A.weight": torch.ones(rank_A, 5), "a.lora_B.weight": torch.ones(6, rank_B)}
        return decode(encode_update(replace(UPDATE, tensors=sent)), expected)

    assert all(torch.equal(answer(4, 4).tensors[n], v) for n, v in whole.items())
    cut = answer(3, 3)
    zeros = torch.cat([torch.ones(6, 3), torch.zeros(6, 1)], dim=1)
    assert torch.equal(cut.tensors["a.lora_A.weight"], torch.cat([torch.ones(3, 5), torch.zeros(1, 5)]))
    assert torch.equal(cut.tensors["a.lora_B.weight"], zeros) and torch.equal(cut.tensors["head"], torch.ones(2))
    assert cut.bytes_up < answer(4, 4).bytes_up
    for ranks in ((2, 2), (3, 4), (4, 3), (5, 5), (0, 0)):
        assert answer(*ranks).reason == "wrong tensors"
    assert answer(3, 3, replace(expected, kept=None)).reason == "wrong tensors"
    scalar = {**whole, "a.lora_A.weight": torch.ones(())}
    assert decode(encode_update(replace(UPDATE, tensors=scalar)), expected).reason == "wrong tensors"
