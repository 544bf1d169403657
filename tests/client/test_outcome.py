"""What came of a training: blocks that did not change are named, and so is the cause of values that are not finite."""

from dataclasses import replace

import pytest
import torch

from fedhello.client.outcome import are_finite, check_trained, not_finite, unchanged
from fedhello.errors import UpdateError
from network import SETTINGS

BLOCK_OF = {"A0": 0, "B0": 0, "A1": 1, "head": None}
BEFORE = {name: torch.zeros(2) for name in BLOCK_OF}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["B0", "A1", "head"], ""),  # one factor of a pair may rest
        (["B0", "A1"], ""),  # and so may a head, if blocks change
        (["A1", "head"], "block 0"),
        (["head"], "block 0, block 1"),
        ([], "block 0, block 1, the head"),
    ],
)
def test_blocks_that_did_not_change_are_named(changed, said):
    after = BEFORE | {name: torch.ones(2) for name in changed}
    assert unchanged(BLOCK_OF, BEFORE, after) == said


def test_a_training_that_changed_nothing_is_an_error(tiny_model):
    model = tiny_model()
    values = model.read(model.block_of)
    with pytest.raises(UpdateError, match="client 4 in round 2 did not change block 0"):
        check_trained(model, 4, 2, values, values)


@pytest.mark.parametrize(
    ("changes", "loss", "objective", "said"),
    [
        ({}, float("nan"), float("nan"), "client 4 in round 2 got NaN or infinity"),
        ({"distillation": 1.0}, 0.5, float("inf"), "the terms added to it are not. Lower train.distillation"),
        ({"proximal": 1e9}, 0.5, 0.5, "Lower train.proximal, which scales them by 1e\\+09"),
        ({}, 0.5, 0.5, "its steps are too large. Lower train.lr"),
    ],
)
def test_the_cause_is_told_by_the_first_loss_and_objective(tiny_model, changes, loss, objective, said):
    error = not_finite(tiny_model(), 4, 2, replace(SETTINGS, **changes), {}, loss, objective)
    with pytest.raises(UpdateError, match=said):
        raise error
    assert error.reason == "not finite"


def test_one_value_that_is_not_finite_is_enough():
    assert are_finite(BEFORE)
    assert not are_finite(BEFORE | {"A1": torch.tensor([0.0, float("inf")])})
