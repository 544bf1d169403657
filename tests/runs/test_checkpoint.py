import json
import os
import re
from dataclasses import fields, replace
from importlib.metadata import version

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from fedhello.errors import RunFolderError
from fedhello.runs import checkpoint as checkpoints
from fedhello.runs.checkpoint import Checkpoint, Checkpoints, DamagedError, decode, differences, encode, listed
from fedhello.state import RunState
from fedhello.types import Adapter


def state(round=3):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"z.lora_A.weight": whole[:2], "a.lora_B.weight": whole.T, "head": torch.randn(3).bfloat16()}
    return RunState(
        round,
        Adapter(tensors, {"z.lora_A.weight": 1, "a.lora_B.weight": 0, "head": None}),
        (0.1, 1 / 3, 1e-300),
        {7: 1.25, 2: 1 / 3},
        {"rank 4/z": whole, "empty": torch.zeros(0, 3), "count": torch.tensor(5, dtype=torch.int64)},
        personal_heads={4: {"head": torch.ones(3)}, 0: {"head": torch.zeros(3)}},
    )


def saved(lines=3, round=3, **more):
    return Checkpoint(lines, state(round), {"configuration": {"train": {"lr": 0.1}}}, {"seconds": 1.5, **more})


def same(one, other):
    return list(one) == list(other) and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and one[n].equal(other[n]) for n in one
    )


def test_everything_comes_back_bit_for_bit_and_in_its_order():
    before = saved()
    after = decode(encode(before))
    assert same(after.state.adapter.tensors, before.state.adapter.tensors)
    assert list(after.state.adapter.block_of.items()) == list(before.state.adapter.block_of.items())
    assert same(after.state.method_state, before.state.method_state)
    heads, kept = after.state.personal_heads, before.state.personal_heads
    assert list(heads) == [4, 0]
    assert all(same(heads[k], kept[k]) for k in kept)
    assert (after.lines, after.identity, after.more) == (before.lines, before.identity, before.more)
    for part in fields(RunState):
        if part.name not in ("adapter", "method_state", "personal_heads"):
            assert getattr(after.state, part.name) == getattr(before.state, part.name), part.name
    assert list(after.state.excess) == [7, 2]


def test_every_part_of_a_state_has_its_place_in_the_file():
    tensors = {"adapter", "method_state", "head_sums", "before_final", "head_base"}
    tensors |= {"selected", "selected_losses", "personal_heads"}
    assert {part.name for part in fields(RunState)} == tensors | checkpoints._plain_state(state()).keys()


def test_shared_heads_and_no_scores_come_back():
    after = decode(encode(Checkpoint(0, RunState(0, Adapter({}, {})))))
    assert after.state.personal_heads is None
    assert after.state.scores is None
    nobody = replace(state(), personal_heads={})
    assert decode(encode(replace(saved(), state=nobody))).state.personal_heads == {}


def test_whatever_is_added_to_the_state_is_saved(monkeypatch):
    """Every field has another value than its default; a new one that is not saved would come back as its default."""
    before = state()
    for part in fields(RunState):
        if part.type is int:
            before = replace(before, **{part.name: 11})
    after = decode(encode(Checkpoint(0, before))).state
    for part in fields(RunState):
        if part.type is int:
            assert getattr(after, part.name) == 11, part.name


def test_there_is_no_pickle_and_others_can_read_it(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(encode(saved()))
    with safe_open(tmp_path / "c.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "fedhello checkpoint"
        assert "memory/rank 4/z" in file.keys()  # noqa: SIM118 - not a dict


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_is_seen(data):
    payload = bytearray(PAYLOAD)
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError):
        decode(bytes(payload))


PAYLOAD = encode(saved())


@pytest.mark.parametrize("part", range(16))
def test_a_part_of_a_file_is_seen(part):
    with pytest.raises(DamagedError):
        decode(PAYLOAD[: len(PAYLOAD) * part // 16])


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_anything_else_is_damaged_and_no_exception_of_its_own(payload):
    with pytest.raises(DamagedError):
        decode(payload)


def test_trailing_bytes_are_seen():
    with pytest.raises(DamagedError, match="digest"):
        decode(PAYLOAD + b"\0")


def test_a_later_format_says_who_wrote_it(monkeypatch):
    monkeypatch.setattr(checkpoints, "MANY", 0)
    payload = encode(Checkpoint(0, replace(state(), head_clients=(0, 2))))
    monkeypatch.setattr(checkpoints, "VERSION", 1)
    with pytest.raises(
        RunFolderError,
        match=rf"of format 1 or earlier; found 2, written by fedhello {re.escape(version('fedhello'))}\.",
    ):
        decode(payload)


def test_many_clients_behind_a_head_are_written_as_ranges():
    ids = (*range(3), *range(5, 100_000), 200_000)
    payload = encode(Checkpoint(0, replace(state(), head_clients=ids)))
    assert decode(payload).state.head_clients == ids
    assert b"[[0, 2], [5, 99999], [200000, 200000]]" in payload.replace(b"\\", b"")
    assert len(payload) < len(PAYLOAD) + 100


def test_the_newest_are_kept(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=2)
    assert store.latest(pytest.fail) is None
    for lines in (999_999, 1_000_000, 1_000_001):
        store.save(saved(lines))
    assert [file.name for file in store.files()] == ["checkpoint-1000001.safetensors", "checkpoint-1000000.safetensors"]
    assert store.latest(pytest.fail).lines == 1_000_001


def test_what_was_given_up_does_not_count_among_the_newest(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=1)
    store.save(saved(9))
    store.save(saved(4))
    assert [file.name for file in store.files()] == ["checkpoint-000004.safetensors"]


def damage(file, how):
    content = file.read_bytes()
    file.write_bytes({"cut": content[:100], "empty": b"", "flipped": content[:-1] + bytes([content[-1] ^ 1])}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_file_gives_way_to_the_one_before_it(tmp_path, how):
    store, said = Checkpoints(tmp_path / "c"), []
    store.save(saved(1))
    store.save(saved(2))
    damage(store.files()[0], how)
    assert store.latest(said.append).lines == 1
    (line,) = said
    assert line.startswith(
        f"the checkpoint {tmp_path / 'c' / 'checkpoint-000002.safetensors'} is damaged and skipped: "
    )


def test_where_none_is_good_there_is_an_error(tmp_path):
    store, said = Checkpoints(tmp_path / "c"), []
    store.save(saved(1))
    store.save(saved(2))
    for file in store.files():
        damage(file, "cut")
    with pytest.raises(RunFolderError, match="all 2 are damaged"):
        store.latest(said.append)
    assert len(said) == 2


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=1)
    store.save(saved(1))
    before = store.files()[0].read_bytes()
    (tmp_path / "c" / ".checkpoint-000002.safetensors.tmp").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match="No space left on device"):
        store.save(saved(2))
    assert [file.read_bytes() for file in store.files()] == [before]
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_the_order_of_writing_is_file_rename_folder(tmp_path, monkeypatch):
    """A rename that the disk learns of before the content would leave an empty file after a power cut."""
    store, steps = Checkpoints(tmp_path / "c"), []
    store.save(saved(1))
    fsync, rename = os.fsync, type(tmp_path).replace

    def noted(descriptor):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(type(tmp_path), "replace", lambda *a: (steps.append("rename"), rename(*a))[1])
    store.save(saved(2))
    assert steps == ["file", "rename", "folder"]


def test_differences_are_named_and_new_keys_are_none():
    there = {"train": {"lr": 0.1, "rounds": 3}, "tiers": [{"blocks": 1}]}
    here = {"train": {"lr": 0.2, "rounds": 3, "new": 1}, "tiers": [{"blocks": 1}, {"blocks": 2}], "section": {}}
    assert list(differences(there, here)) == [
        "train.lr is 0.1 there and 0.2 here",
        "tiers is [{'blocks': 1}] there and [{'blocks': 1}, {'blocks': 2}] here",
    ]
    assert list(differences({"gone": 1}, {})) == ["gone is 1 there and None here"]
    assert listed([f"{i}" for i in range(7)]) == "0; 1; 2; 3; 4; and 2 more"


def test_the_metadata_are_json(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(PAYLOAD)
    with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
        found = file.metadata()
    assert json.loads(found["version"]) == 1
    assert json.loads(found["state"])["round"] == 3
    assert len(found["sha256"]) == 64
