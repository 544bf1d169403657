import pytest
import torch

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
