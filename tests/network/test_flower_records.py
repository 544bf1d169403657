"""What messages between a user's Flower apps hold, and what of a reply is believed."""

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

from flower_users import net
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedhello.engine.wire import MOST_SAMPLES
from fedhello.errors import EngineError, ModelError, UpdateError
from fedhello.network.flower_client import adapted
from fedhello.network.flower_records import (
    NPY_HEADER,
    RECORD,
    adapter_of,
    alike,
    as_arrays,
    as_tensors,
    bytes_of,
    describe_task,
    read_allocation,
    read_tensors,
    samples_of,
)
from fedhello.types import MERGED, Adapter, Allocation, Task

TENSORS = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.tensor([1, 2**19])}


def content(arrays=None, **metrics):
    records = {"arrays": as_arrays(TENSORS) if arrays is None else ArrayRecord(arrays)}
    return RecordDict(records | ({"metrics": MetricRecord(metrics)} if metrics else {}))


def test_tensors_come_back_as_they_went_sorted_by_name():
    assert list(as_arrays(TENSORS)) == ["a", "b"]
    for found in (as_tensors(as_arrays(TENSORS)), read_tensors(content(), TENSORS)):
        assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
        assert {name: value.dtype for name, value in found.items()} == {"a": torch.int64, "b": torch.float32}
    assert bytes_of(content()) == sum(len(array.data) for array in as_arrays(TENSORS).values()) > 6 * 4 + 2 * 8


def changed(**arrays):
    return {name: array for name, array in ({**as_arrays(TENSORS)} | arrays).items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (changed(b=None), "wrong tensors"),
        (changed(c=Array(np.zeros(1, np.float32))), "wrong tensors"),
        (changed(b=Array(np.zeros((2, 2), np.float32))), "wrong tensors"),
        (changed(b=Array(np.zeros((3, 2), np.float64))), "wrong tensors"),
        (changed(b=Array(np.full((3, 2), np.inf, np.float32))), "not finite"),
        (changed(b=Array(np.full((3, 2), 1e30, np.float32))), "out of bounds"),
        (changed(b=Array("float32", (3, 2), "numpy.ndarray", b"x")), "malformed"),
        (changed(b=Array("float32", (3, 2), "numpy.ndarray", bytes(6 * 4 + NPY_HEADER + 1))), "too large"),
    ],
)
def test_arrays_that_were_not_asked_for_are_refused_with_a_reason(arrays, reason):
    with pytest.raises(UpdateError) as caught:
        read_tensors(content(arrays), TENSORS)
    assert caught.value.reason == reason


@pytest.mark.parametrize("records", [{}, {"one": as_arrays(TENSORS), "other": as_arrays(TENSORS)}])
def test_one_record_of_arrays_is_expected(records):
    with pytest.raises(UpdateError, match=f"expected one ArrayRecord; found {len(records)}"):
        read_tensors(RecordDict(records), TENSORS)


@pytest.mark.parametrize("count", [1, 7.0, MOST_SAMPLES])
def test_a_count_of_samples_is_a_whole_number(count):
    assert samples_of(content(n=count), "n") == count


@pytest.mark.parametrize("count", [0, -1, 2.5, MOST_SAMPLES * 2, float("nan"), float("inf"), [1, 2]])
def test_any_other_count_is_refused(count):
    with pytest.raises(UpdateError, match="a whole number of at least 1") as caught:
        samples_of(content(n=count), "n")
    assert caught.value.reason == "wrong count"


def test_a_count_that_is_missing_or_might_be_another_is_refused():
    for odd in (content(), content(m=1), RecordDict({"a": MetricRecord({"n": 1}), "b": MetricRecord({"n": 1})})):
        with pytest.raises(UpdateError, match="expected one MetricRecord with n"):
            samples_of(odd, "n")


@pytest.mark.parametrize("components", [(), (1, 3), ((1, 3), (0, 2), (2, 3))])
def test_what_a_client_is_asked_to_do_comes_back(components):
    allocation = Allocation((0, 2), factors="B", absent=(1,), components=components, head=False)
    asked = describe_task(Task(5, 3, allocation, Adapter({}, {})), "digest")
    record, found = read_allocation(RecordDict({RECORD: asked}))
    assert found == allocation
    assert (record["client"], record["round"], record["weights"]) == (5, 3, "digest")
    for other in ({}, {RECORD: ConfigRecord({"lr": 0.1})}):
        with pytest.raises(EngineError, match="this one holds no allocation"):
            read_allocation(RecordDict(other))


def test_replies_whose_metrics_cannot_be_averaged_are_left_out(caplog):
    good = [content(loss=1.0, n=3), content(loss=2.0, n=4)]
    odd = [
        content(accuracy=1.0, n=5), content(loss=float("nan"), n=5), content(loss=1.0, n=0),
        content(loss=[1.0, 2.0], n=5), content(),
    ]  # fmt: skip
    assert alike([odd[0], *good, *odd[1:]], "n") == good
    assert caplog.messages == ["the metrics of 5 of 7 replies are left out"]
    caplog.clear()
    assert alike(good, "n") == good
    assert alike([], "n") == alike([odd[2]], "n") == []
    assert caplog.messages == ["the metrics of 1 of 1 replies are left out"]


def test_an_adapter_of_this_model_is_read_whatever_its_rank_and_another_is_refused():
    lora = adapted(net()).lora
    tensors = lora.snapshot(share_head=True).tensors
    narrower = {name: value[:2] if "lora_A" in name else value[:, :2] if "lora_B" in name else value
                for name, value in tensors.items()}  # fmt: skip
    name = next(name for name in tensors if "lora_B" in name)
    merged = name.removesuffix(".lora_B.weight") + MERGED
    found = adapter_of(lora, as_arrays({**narrower, merged: torch.zeros(2, 2)}))
    assert {n: tuple(v.shape) for n, v in found.tensors.items()} == {
        n: tuple(v.shape) for n, v in {**narrower, merged: torch.zeros(2, 2)}.items()
    }
    assert found.block_of[name] == lora.block_of[name]
    with pytest.raises(ModelError, match=r"1 differ, the first is .*lora_B.*Make them with fedhello\.flower\.arrays"):
        adapter_of(lora, as_arrays({**tensors, name: torch.zeros(1, 2, 2)}))
