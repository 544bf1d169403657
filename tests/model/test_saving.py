import json

import pytest
import torch
from safetensors.torch import load_file

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
