from dataclasses import replace

import pytest
import torch

from fedhello.client.finite import start_cause
from fedhello.client.fisher import block_scores
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.errors import ModelError, UpdateError
from fedhello.types import Allocation

SETTINGS = TrainingSettings(
    rounds=1, epochs=3, batch_size=4, optimizer="sgd", lr=1e-2, lr_schedule="constant", lr_decay=1.0, weight_decay=0.0,
    momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip


def filled(model, value, head):
    """Give the head, or all factors, a value."""
    adapter = model.snapshot(share_head=True).tensors
    model.write(
        {n: torch.full_like(v, value) if (model.block_of[n] is None) == head else v for n, v in adapter.items()}
    )
    return model


def said(model, data, **changes):
    """Return why the training of client 7 in round 3 fails."""
    names = model.snapshot(share_head=True).names(Allocation((0, 1)))
    with pytest.raises(UpdateError) as caught:
        local_training(model, Assignment(7, 3, names, data, (0, 1, 2), seed=0), replace(SETTINGS, **changes))
    assert str(caught.value).startswith("expected finite training values; client 7 in round 3 got NaN or infinity: ")
    assert caught.value.reason == "not finite"
    return str(caught.value)


def test_steps_that_are_too_large_are_told_from_what_they_started_from(tiny_model, random_examples):
    data = random_examples()
    assert "Lower train.lr, which is 1e+12 in this round." in said(tiny_model(), data, lr=1e12)
    both = said(tiny_model(), data, lr_head=1e20, lr=1.0)
    assert "Lower train.lr_head, which scales them by 1e+20 or train.lr, which is 1 in this round." in both
    for value, head, part in ((float("nan"), True, "head"), (float("inf"), False, "LoRA factors")):
        sentence = said(filled(tiny_model(), value, head), data)
        assert f"the {part} that this round started from are not finite" in sentence
        assert "Lower train.lr" not in sentence
    head = said(filled(tiny_model(), 3e38, True), data)
    assert "the head that this round started from reach 3e+38" in head
    assert "lower model.head_scale, or set defence.screen or defence.clip" in head
    factors = said(filled(tiny_model(), 1e30, False), data)
    assert "the LoRA factors that this round started from reach 1e+30" in factors
    assert "See whose updates counted then" in factors
    assert "head_scale" not in factors


def test_a_term_that_is_added_to_the_loss_is_named(tiny_model, random_examples):
    penalised = said(filled(tiny_model(), 2.0, False), random_examples(), tail_penalty=3e38, tail_from=0)
    assert "its loss is finite, and the terms added to it are not. Lower the method's penalty." in penalised
    distilled = said(tiny_model(), random_examples(), distillation=1e30)
    assert "Lower train.distillation, which scales them by 1e+30 or train.lr, which is 0.01" in distilled


def test_the_scale_of_the_product_is_a_cause(tiny_model):
    model = tiny_model()
    model.scale = 1e12
    assert start_cause(model) == "LoRA's product is scaled by 1e+12, before any training. Lower model.lora.alpha"


def test_an_adapter_of_small_values_is_not_blamed(tiny_model):
    assert "Check its data, and model.dtype" in start_cause(tiny_model())


def test_scores_of_broken_factors_name_them(tiny_model, random_examples):
    model, data = filled(tiny_model(), float("nan"), False), random_examples()
    with pytest.raises(ModelError, match="infinity: the LoRA factors that this round started from are not finite"):
        block_scores(model, data)
