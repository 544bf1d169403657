import json

import numpy as np
import pytest
import torch
from mutations import mutated
from safetensors.torch import load_file, save_file

from fedhello.errors import ModelError
from fedhello.model.saving import load_adapter, read_tensors, save_adapter


def test_saved_files_hold_no_pickle_no_path_and_only_the_adapter(tiny_model, tmp_path):
    model = tiny_model()
    save_adapter(model, tmp_path / "adapter")
    assert sorted(f.name for f in (tmp_path / "adapter").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert sorted(config["target_modules"]) == ["query", "value"]
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved.keys() == model.snapshot(share_head=True).tensors.keys()
    assert "/" not in (tmp_path / "adapter" / "README.md").read_text().replace("</", "")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter"]


def test_loading_refuses_an_adapter_of_another_model(tiny_model, tmp_path):
    save_adapter(tiny_model(blocks=2), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"4 tensors differ, the first is .*layer\.2\."):
        load_adapter(tiny_model(blocks=3), tmp_path / "adapter")
    with pytest.raises(ModelError, match="no adapter_model"):
        load_adapter(tiny_model(), tmp_path)


def test_a_saved_adapter_loads_back_bit_for_bit(tiny_model, tmp_path):
    model, fresh = tiny_model(seed=1), tiny_model(seed=1)
    model.write({name: torch.rand_like(v) for name, v in model.snapshot(share_head=True).tensors.items()})
    save_adapter(model, tmp_path / "adapter")
    load_adapter(fresh, tmp_path / "adapter")
    one, other = model.snapshot(share_head=True).tensors, fresh.snapshot(share_head=True).tensors
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_damaged_adapter_is_refused(size, tiny_model, tmp_path):
    model = tiny_model()
    save_adapter(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"expected tensors in .*adapter_model\.safetensors; the file is damaged"):
        load_adapter(model, tmp_path / "adapter")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_an_adapter_that_is_not_finite_is_refused(value, tiny_model, tmp_path):
    model = tiny_model()
    before = model.snapshot(share_head=True).tensors
    save_adapter(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    saved = load_file(file)
    name = next(iter(saved))
    saved[name].view(-1)[0] = value
    save_file(saved, file)
    with pytest.raises(ModelError, match=r"expected finite values in .*; found NaN or infinity in"):
        load_adapter(model, tmp_path / "adapter")
    after = model.snapshot(share_head=True).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2])
def test_tensors_that_would_be_cast_in_silence_are_refused(dtype, tmp_path):
    save_file({"a": torch.zeros(2, 2).to(dtype)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"expected tensors of floating point in .*x\.safetensors; a is of torch"):
        read_tensors(tmp_path / "x.safetensors")


def test_factors_that_do_not_fit_each_other_are_refused(tiny_model, tmp_path):
    model = tiny_model()
    save_adapter(model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    saved = load_file(file)
    name = next(name for name in saved if name.endswith("lora_A.weight"))
    for other, said in ((torch.zeros(3, 8), "to be of one rank"), (torch.zeros(8), "1 tensors differ")):
        save_file(saved | {name: other}, file)
        with pytest.raises(ModelError, match=said):
            load_adapter(model, tmp_path)


DTYPES = tuple(f'"{name}"'.encode() for name in ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64"))


@pytest.mark.parametrize("cases", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_whatever_is_damaged_tensors_are_read_or_there_is_one_sentence(tiny_model, tmp_path, cases):
    rng, model = np.random.default_rng(cases), tiny_model(blocks=1)
    save_adapter(model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    good = file.read_bytes()
    head = 8 + int.from_bytes(good[:8], "little")
    words = (*DTYPES, b"-", b"9", b"0", b"[", b"}", (2**63).to_bytes(8, "little"), head.to_bytes(8, "little"))
    read = 0
    for case in range(cases):
        file.write_bytes(mutated(rng, good, head if case % 2 else None, words))
        try:
            load_adapter(model, tmp_path)
            read += 1
        except ModelError as error:
            assert "\n" not in str(error), case
    assert 0 < read < cases / 2, "some changes are of values alone"
