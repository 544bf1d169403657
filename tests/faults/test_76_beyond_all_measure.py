"""Case 76: numbers beyond all measure are refused by the client's own limits, before memory is taken for them."""

import json
import struct
import tracemalloc

import pytest
import torch
from hostile import client_of, told_at, work_for


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def unloaded(monkeypatch):
    def load(*_):
        pytest.fail("it loads the model")

    monkeypatch.setattr("fedhello.network.preparation.load_model", load)


HUGE = [
    {"train": {"epochs": 10**6}}, {"train": {"batch_size": 10**8}}, {"model": {"lora": {"rank": 50_000, "alpha": 8}}},
    {"data": {"max_length": 10**9}}, {"data": {"answer_tokens": 10**9}},
]  # fmt: skip


@pytest.mark.parametrize("sections", HUGE, ids=str)
def test_a_configuration_beyond_all_measure_is_refused_before_the_model_is_there(place, unloaded, sections):
    worker, _ = client_of()
    assert worker.answer("join", told_at(place, **sections)) == {"error": "not allowed"}
    assert "as this client's owner allows" in str(worker.failure)


@pytest.mark.parametrize(
    ("consent", "free", "code"),
    [({"download": "200kB"}, 10**9, "not allowed"), ({"budget": {"memory": "200kB"}}, 10**9, "over budget"),
     ({}, 10**6, "over budget")],
)  # fmt: skip
def test_an_adapter_too_large_for_the_client_is_refused_before_it_is_made(place, monkeypatch, consent, free, code):
    """Rank 1024 on all linear layers is within ``most_rank``, and takes as much memory as the model is large."""
    large = told_at(place, model={"lora": {"rank": 1024, "alpha": 8, "targets": "all-linear"}})
    monkeypatch.setattr("fedhello.network.preparation._free_memory", lambda device: free)
    monkeypatch.setattr("fedhello.model.injection.LoraModel", lambda *_: pytest.fail("it makes the adapter"))
    for brought in ({}, {"part": 0}):
        worker, _ = client_of(**consent, **brought)
        assert worker.answer("join", large) == {"error": code}


def peak_of(action):
    tracemalloc.start()
    try:
        found = action()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_three_million_labels_are_counted_and_not_read(place, unloaded):
    fields = told_at(place) | {"labels": json.dumps([str(c) for c in range(3_000_000)])}
    worker, _ = client_of()
    reply, peak = peak_of(lambda: worker.answer("join", fields))
    assert reply == {"error": "not allowed"}
    assert peak < 10**6


def test_a_long_configuration_is_not_read(place, unloaded):
    worker, _ = client_of()
    reply, peak = peak_of(lambda: worker.answer("join", told_at(place) | {"config": "[" * 10**7}))
    assert reply == {"error": "not allowed"}
    assert peak < 5 * 10**7


@pytest.fixture
def joined(place):
    worker, ready = client_of(download="1MB")
    assert "facts" in worker.answer("join", told_at(place))
    return worker, ready.client


def stated(shape, name, dtype="F32"):
    """Return a task whose safetensors state a tensor that is not there."""
    entry = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 8]}}
    header = json.dumps(entry).encode()
    return b'{"round":0,"blocks":[0]}' + struct.pack("<Q", len(header)) + header + bytes(8)


def test_shapes_that_are_stated_cost_no_memory(joined):
    worker, client = joined
    work = work_for(client)
    A = next(name for name in client.model.block_of if name.endswith("lora_A.weight"))
    module = A.removesuffix(".lora_A.weight")
    for name in (A, f"{module}.merged.weight", f"{module}.merged_A.weight", "correction/" + A, "another"):
        for shape in ([10**9, 10**9], [50_000, 16], [-1, 16], [True, 16], "x", [10**4] * 9):
            reply, peak = peak_of(lambda n=name, s=shape: worker.answer("train", work | {"task": stated(s, n)}))
            assert reply == {"error": "malformed"}, (name, shape)
            assert peak < 10**6


def test_a_rank_above_the_models_is_refused(joined):
    worker, client = joined
    adapter = client.model.snapshot(share_head=True).tensors
    A = next(name for name in adapter if name.endswith("lora_A.weight"))
    wide = {A: torch.zeros(64, 16), A.replace("lora_A", "lora_B"): torch.zeros(16, 64)}
    assert worker.answer("train", work_for(client, tensors=wide)) == {"error": "malformed"}


@pytest.mark.parametrize("kind", ["train", "scores", "sums"])
def test_more_bytes_than_the_owner_allows_are_not_read(joined, kind):
    worker, client = joined
    big = bytes(10**6 + 1)
    fields = work_for(client) | {"task": big, "adapter": big, "samples": 4, "batch_size": 2}
    assert worker.answer(kind, fields) == {"error": "not allowed"}


@pytest.mark.parametrize(
    "header",
    [{"blocks": list(range(10**4))}, {"blocks": [2, 1]}, {"blocks": [0, 0]}, {"blocks": [-1]}, {"blocks": [True]},
     {"blocks": [0], "policies": ["keep"] * 99}, {"blocks": [0], "components": [99]}, {"blocks": [0], "absent": [0]},
     {"blocks": [0], "factors": "C"}, {"blocks": [0], "head": 1}, {"blocks": [0], "lr": -1},
     {"blocks": [0], "round": 10**99}, {"blocks": {}}, {"blocks": [0], "components": [[0]] * 99},
     {"blocks": [0], "components": [[0, 99]] * 2}, {"blocks": [0], "components": [[1, 0]] * 2},
     {"blocks": [0], "components": [[0], 1]}, {"blocks": [0], "components": [[]] * 2},
     {"blocks": [0], "components": {}}],
    ids=str,
)  # fmt: skip
def test_an_allocation_that_no_model_has_is_refused(joined, header):
    worker, client = joined
    work = work_for(client)
    tensors = work["task"][work["task"].index(b"}") + 1 :]
    task = json.dumps({"round": 0, **header}).encode() + tensors
    assert worker.answer("train", work | {"task": task}) == {"error": "malformed"}
