"""The memory of first steps: measured once for all that take the same, and always where that is not known."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn
from torch.nn.functional import cross_entropy

from fedhello.client import first_step
from fedhello.client.loss import register_loss
from fedhello.client.memory import StepMemory
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged
from fedhello.types import Allocation

SETTINGS = TrainingSettings(
    rounds=1, epochs=2, batch_size=4, optimizer="adamw", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.9, loss="cross_entropy", autocast="none",
)  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """One entry for each step that is measured."""
    found = []
    monkeypatch.setattr(first_step, "StepMemory", lambda *given: found.append(1) or StepMemory(*given))
    return found


def train(model, data, blocks=(0, 2), settings=SETTINGS):
    names = model.snapshot(share_head=True).names(Allocation(blocks))
    return local_training(model, Assignment(0, 0, names, data, (0, 1, 2), seed=0), settings)[1]


def of_length(tokens, samples=4, seed=0, shorter=0):
    """Texts of one length, the last one shorter; so many are one batch."""
    rng = np.random.default_rng(seed)
    sizes = [tokens] * (samples - 1) + [tokens - shorter]
    return Examples(Ragged.of(rng.integers(1, 50, size=size) for size in sizes), rng.integers(3, size=samples), pad=0)


def test_a_step_like_an_earlier_one_is_not_measured_again_and_stated_as_if_it_were(tiny_model, made):
    def trained(model, data, blocks=(0, 2), **changes):
        before, metrics = len(made), train(model, data, blocks, replace(SETTINGS, **changes))
        return [metrics[name] for name in ("saved_bytes", "peak_bytes")], len(made) - before

    model, known = tiny_model(dropout=0.1), {}
    cases = [
        ((of_length(7),), {}), ((of_length(8),), {}), ((of_length(7, shorter=2),), {}),
        ((of_length(7, samples=3),), {}), ((of_length(7), (1, 2)), {}),
        ((of_length(7),), {"optimizer": "sgd"}), ((of_length(7),), {"epochs": 1}),
    ]  # fmt: skip
    for i, (given, changes) in enumerate(cases):
        known[i], measured = trained(model, *given, **changes)
        assert measured == 1
    assert len({tuple(found) for found in known.values()}) > 4
    for i, (given, changes) in enumerate(cases):
        # Other values of the same form, and another rate.
        (data, *blocks) = given
        other = replace(data, labels=data.labels[::-1].copy())
        assert trained(model, other, *blocks, lr=2e-3, **changes) == (known[i], 0)
        assert trained(tiny_model(dropout=0.1), other, *blocks, **changes) == (known[i], 1)


def test_a_step_under_a_loss_of_the_user_is_always_measured(tiny_model, made):
    register_loss("plain", cross_entropy)
    model = tiny_model()
    for _ in range(2):
        train(model, of_length(7), (2,), replace(SETTINGS, loss="plain"))
    assert len(made) == 2


def test_a_model_with_experts_is_always_measured(tiny_model, made):
    model = tiny_model()
    model.module.experts = nn.Identity()
    for _ in range(2):
        train(model, of_length(7))
    assert len(made) == 2
