import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedhello.errors import ModelError
from fedhello.model.saving import load_adapter, save_adapter


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
