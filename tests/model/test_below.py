import pytest
import torch
from torch import nn

from fedhello.model.below import forward_replaced, going_on_from, modules_below, output_of, weights_below


def paths(model, modules):
    by_id = {id(module): path for path, module in model.base.named_modules()}
    return [by_id[id(module)] for module in modules]


def test_below_a_block_are_the_embeddings_and_the_blocks_before_it_and_nothing_else(tiny_model):
    model = tiny_model(blocks=3)
    found = paths(model, modules_below(model, 1))
    assert "bert.embeddings.dropout" in found and "bert.encoder.layer.0.attention.self" in found
    parts = ("bert.embeddings", "bert.encoder.layer.0")
    assert all(path in parts or path.startswith(tuple(f"{part}." for part in parts)) for path in found)
    assert len([path for path in paths(model, modules_below(model, 3)) if path.endswith("attention.self")]) == 3


def test_weights_below_are_all_but_those_from_the_block_on_and_the_heads(tiny_model):
    model = tiny_model(blocks=3)
    every = dict(model.module.named_parameters())
    names = {name for name, _ in weights_below(model, 1)}
    assert any("layer.0" in name and "lora_A" in name for name in names)
    assert {name for name in every if "layer.1." in name or "layer.2." in name}.isdisjoint(names)
    assert {name for name in every if "classifier" in name and "original" not in name}.isdisjoint(names)
    assert {name for name, _ in weights_below(model, 3)} - names == {
        name for name in every if "layer.1." in name or "layer.2." in name
    }


def test_a_pass_ends_at_the_call_that_is_asked_for_and_leaves_no_hook():
    layer, after = nn.Linear(2, 2), []

    def run():
        x = torch.ones(1, 2)
        for _ in range(3):
            x = layer(x)
            after.append(x)

    second = output_of(layer, 2, run)
    assert len(after) == 1 and torch.equal(second, layer(after[0]))
    assert not layer._forward_hooks
    with pytest.raises(RuntimeError, match="expected 4 calls of a block in a forward pass; found 3"):
        output_of(layer, 4, run)


def test_blocks_hand_on_an_output_and_run_again_afterwards():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    x, known = torch.ones(1, 2), torch.full((1, 2), 7.0)
    before = second(first(x))
    handed = [known]
    with going_on_from([first, second], handed, 1):
        assert second(first(x)) is known and not handed
    assert torch.equal(second(first(x)), before)


def test_a_block_with_a_forward_of_its_own_gets_it_back():
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x + 1
    with forward_replaced(layer, lambda x: x + 5):
        assert float(layer(torch.zeros(()))) == 5
    assert float(layer(torch.zeros(()))) == 1
