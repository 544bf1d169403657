import json

import pytest
import torch
from safetensors.torch import load_file

from fedhello.errors import ModelError
from fedhello.model.saving import load_adapter, save_adapter
from fedhello.types import Allocation


@pytest.mark.parametrize("blocks", [12, 30, 120])
def test_allocating_block_1_selects_block_1_alone(blocks, tiny_model):
    model = tiny_model(blocks=blocks)
    names = model.snapshot(share_head=False).names(Allocation((1,)))
    model.set_trainable(names)
    trainable = [name for name, p in model.module.named_parameters() if p.requires_grad]
    assert len(trainable) == 4
    assert all(".layer.1." in name for name in trainable)


def test_the_adapter_knows_each_tensors_block(tiny_model):
    adapter = tiny_model(blocks=3).snapshot(share_head=True)
    prefix = "base_model.model.bert.encoder.layer."
    assert adapter.block_of[f"{prefix}2.attention.self.value.lora_B.weight"] == 2
    assert adapter.block_of["base_model.model.classifier.weight"] is None
    assert adapter.tensors[f"{prefix}0.attention.self.query.lora_A.weight"].shape == (2, 8)
    assert adapter.tensors[f"{prefix}0.attention.self.query.lora_B.weight"].shape == (8, 2)
    assert len(adapter.tensors) == 3 * 4 + 2


def test_an_unshared_head_is_no_part_of_the_adapter(tiny_model):
    adapter = tiny_model(blocks=3).snapshot(share_head=False)
    assert None not in adapter.block_of.values()
    assert adapter.names(Allocation(())) == ()


def test_a_snapshot_is_a_copy_and_writing_brings_it_back(tiny_model):
    model = tiny_model()
    before = model.snapshot(share_head=True)
    model.write({name: torch.ones_like(value) for name, value in before.tensors.items()})
    assert any(bool((value != 1).any()) for value in before.tensors.values())
    model.write(before.tensors)
    after = model.snapshot(share_head=True)
    assert all(torch.equal(after.tensors[name], value) for name, value in before.tensors.items())


def test_the_seed_decides_the_start_and_the_global_random_state_is_left_alone(tiny_model):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    one, same, other = tiny_model(seed=1), tiny_model(seed=1), tiny_model(seed=2)
    assert torch.equal(torch.rand(1), expected)
    a, b, c = (m.snapshot(share_head=True).tensors for m in (one, same, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


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
