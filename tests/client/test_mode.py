import pytest
import torch

from fedhello.client.mode import lowest_trained, set_training, surroundings
from fedhello.types import Allocation


@pytest.mark.parametrize(("blocks", "lowest"), [((), 3), ((1,), 1), ((0, 2), 0)])
def test_the_lowest_trained_block_is_that_of_the_names(blocks, lowest, tiny_model):
    model = tiny_model(blocks=3)
    assert lowest_trained(model, model.snapshot(share_head=True).names(Allocation(blocks))) == lowest


def active(model):
    return {name for name, module in model.base.named_modules() if module.training and "dropout" in name}


def test_dropout_is_active_everywhere_unless_it_is_left_out_below(tiny_model):
    model = tiny_model(blocks=3, dropout=0.1)
    set_training(model, 2)
    every = active(model)
    assert any("embeddings" in name for name in every)
    model.frozen_dropout = False
    set_training(model, 2)
    assert active(model) == {name for name in every if "embeddings" not in name and "layer.0." not in name} - {
        name for name in every if "layer.1." in name
    }
    assert "dropout" in active(model) and any("layer.2." in name for name in active(model))
    set_training(model, 0)
    assert active(model) == {name for name in every if "embeddings" not in name}


def test_masks_come_from_the_seed_and_the_random_state_stays_as_it_was(tiny_model):
    model, state = tiny_model(blocks=3), torch.get_rng_state()
    drawn, blocks = [], model.block_modules()
    for _ in range(2):
        with surroundings(model, (1,), 5):
            drawn.append(torch.rand(3))
            assert list(model.base.bert.encoder.layer)[1] is not blocks[1]
    assert torch.equal(*drawn) and torch.equal(torch.get_rng_state(), state)
    assert list(model.base.bert.encoder.layer) == blocks
