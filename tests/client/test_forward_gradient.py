"""Gradients without backward: their value, what they hold, and what they go with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedhello.client.forward_gradient import estimate_gradients, joined_predictions, parts_of
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.errors import ModelError
from fedhello.model.forward import predictions
from fedhello.types import Allocation

FORWARD = TrainingSettings(
    rounds=10, epochs=2, batch_size=8, optimizer="adamw", lr=1e-3, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none", tangents=3,
)  # fmt: skip


def assignment(model, data, blocks, head=True):
    names = model.snapshot(share_head=head).names(Allocation(blocks))
    return Assignment(0, 0, names, data, (0, 1, 2), seed=0)


def warm(model):
    """Give B values other than zero, so that every factor has a gradient."""
    generator = torch.Generator().manual_seed(1)
    tensors = model.snapshot(share_head=True).tensors
    model.write({name: 0.3 * torch.randn(v.shape, generator=generator) for name, v in tensors.items()})
    return model


def loss_of(model, batch):
    found = predictions(model, batch)
    return cross_entropy(found.z, found.y)


def exact(model, names, batch):
    parameters = model.set_trainable(names)
    model.module.eval()
    found = torch.autograd.grad(loss_of(model, batch), parameters)
    return parameters, list(found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_estimate_is_the_slope_along_a_direction_times_the_direction(tiny_model, random_examples, attention):
    model, data = warm(tiny_model(attention=attention)), random_examples(samples=6)
    batch = data.batch(np.arange(6))
    parameters, g = exact(model, model.snapshot(share_head=False).names(Allocation((0, 2))), batch)
    estimate_gradients(model, parameters, lambda: loss_of(model, batch), tangents=1, seed=5)
    generator = torch.Generator().manual_seed(5)
    v = [torch.randn(p.shape, generator=generator) for p in parameters]
    slope = sum(float((one * other).sum()) for one, other in zip(g, v, strict=True))
    for p, direction in zip(parameters, v, strict=True):
        assert torch.allclose(p.grad, slope * direction, rtol=1e-3, atol=1e-6)
    assert all(isinstance(p, torch.nn.Parameter) for p in model.module.parameters())


def test_many_directions_tell_the_gradient(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=6)
    batch = data.batch(np.arange(6))
    name = next(name for name in model.block_of if name.endswith("lora_B.weight"))
    (parameter,), (g,) = exact(model, [name], batch)
    m = 3000
    estimate_gradients(model, [parameter], lambda: loss_of(model, batch), tangents=m, seed=0)
    expected = ((g.numel() + 1) / m) ** 0.5  # the relative error
    assert 0.5 * expected < float((parameter.grad - g).norm() / g.norm()) < 1.5 * expected < 0.25


def test_parts_of_a_batch_join_to_its_predictions(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=10)
    model.module.eval()
    positions = np.arange(10)[::-1]
    parts = parts_of(positions)
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    with torch.no_grad():
        whole = predictions(model, data.batch(positions))
        joined = joined_predictions([predictions(model, data.batch(part)) for part in parts])
    assert torch.allclose(whole.z, joined.z, atol=1e-6)
    assert torch.equal(whole.y, joined.y) and torch.equal(whole.sample, joined.sample)


def test_a_step_saves_nothing_for_backward_and_repeats_exactly(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=20)
    start = model.snapshot(share_head=True).tensors
    work = assignment(model, data, (0, 2), head=False)
    values, metrics = local_training(model, work, FORWARD)
    assert metrics["saved_bytes"] == 0 < metrics["peak_bytes"]
    model.write(start)
    again, _ = local_training(model, work, FORWARD)
    assert all(torch.equal(values[name], again[name]) for name in values)
    model.write(start)
    other, _ = local_training(model, replace(work, seed=1), FORWARD)
    assert any(not torch.equal(values[name], other[name]) for name in values)


def test_a_heads_gradient_is_exact(tiny_model, random_examples):
    """Without dropout, SGD moves the head as backward does, and what it holds is what the head's own step holds."""
    model, data = warm(tiny_model(dropout=0.0)), random_examples(samples=4)
    start = model.snapshot(share_head=True).tensors
    once = replace(FORWARD, optimizer="sgd", epochs=1, batch_size=64, lr=0.1)
    work = assignment(model, data, (1,))
    forward, held = local_training(model, work, once)
    model.write(start)
    backward, _ = local_training(model, work, replace(once, tangents=0))
    for name in model.head_names:
        assert torch.allclose(forward[name], backward[name], atol=1e-6)
    model.write(start)
    _, alone = local_training(model, assignment(model, data, ()), replace(once, tangents=0))
    assert held["saved_bytes"] == alone["saved_bytes"]
    assert held["loss"] == pytest.approx(alone["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "changes", [{"autocast": "bfloat16"}, {"distillation": 0.5}, {"proximal": 0.1}, {"loss": "restricted"}]
)
def test_it_goes_with(tiny_model, random_examples, changes):
    model = warm(tiny_model())
    values, metrics = local_training(
        model, assignment(model, random_examples(samples=9), (0, 1)), replace(FORWARD, **changes)
    )
    assert np.isfinite(metrics["loss"]) and all(bool(value.isfinite().all()) for value in values.values())


def test_a_language_model_trains_without_backward(tiny_decoder, random_examples):
    model = warm(tiny_decoder())
    _, metrics = local_training(model, assignment(model, random_examples(samples=9), (1,), head=False), FORWARD)
    assert metrics["saved_bytes"] == 0


def test_an_operation_without_forward_mode_is_refused_in_a_sentence(tiny_model, random_examples):
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    model, batch = warm(tiny_model()), random_examples(samples=2).batch(np.arange(2))
    parameters = model.set_trainable(model.snapshot(share_head=False).names(Allocation((1,))))
    with pytest.raises(ModelError, match=r"expected a model whose operations have a forward mode .* Set train\.activ"):
        estimate_gradients(model, parameters, lambda: Own.apply(loss_of(model, batch)), tangents=1, seed=0)
    assert all(isinstance(p, torch.nn.Parameter) for p in model.module.parameters())
