import pytest
import torch
from torch import nn

from fedhello.model.undo import as_it_was_if_failing


def model():
    found = nn.Module()
    found.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    found.head = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    return found


def change(found):
    found.blocks[1] = nn.Identity()
    found.extra = nn.Linear(3, 3)
    found.note = "changed"
    found.head[0].register_forward_hook(lambda *_: None)
    with torch.no_grad():
        found.head[0].weight.add_(1)
        found.head[1].bias.add_(1)
    found.blocks[0].weight.requires_grad_(False)
    found.blocks[0].weight.data = found.blocks[0].weight.data.double()
    found.eval()


def test_a_model_is_as_it_was_if_the_block_raises_and_as_it_became_if_not():
    found = model()
    before = {name: (weight, weight.detach().clone()) for name, weight in found.named_parameters()}
    with pytest.raises(KeyboardInterrupt), as_it_was_if_failing(found):
        change(found)
        raise KeyboardInterrupt
    after = dict(found.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is weight and torch.equal(weight, value) for name, (weight, value) in before.items())
    assert all(weight.requires_grad for weight in after.values())
    assert found.training
    assert not found.head[0]._forward_hooks
    assert not hasattr(found, "note")
    with as_it_was_if_failing(found):
        change(found)
    assert (found.note, found.training, "extra.weight" in found.state_dict()) == ("changed", False, True)


def test_what_is_no_module_is_left_alone():
    for given in (None, "a name"):
        with pytest.raises(ValueError, match="its own"), as_it_was_if_failing(given):
            raise ValueError("its own")
