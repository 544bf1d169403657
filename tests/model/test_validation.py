import pytest
import torch
from torch.nn.functional import cross_entropy

from fedhello.model import validation
from fedhello.model.evaluation import logits
from fedhello.model.validation import ValidationLosses, same_objects
from fedhello.strategy import STEPS


def moved(adapter, by):
    return adapter.with_tensors({name: value + by for name, value in adapter.tensors.items()})


@pytest.fixture
def measured(tiny_model, random_examples, monkeypatch):
    """A model, its validation data, and how often it ran."""
    runs = []
    monkeypatch.setattr(validation, "logits", lambda *arguments: runs.append(1) or logits(*arguments))
    return tiny_model(), random_examples(samples=7), runs


def test_losses_are_minus_log_p_of_each_sample_under_the_adapter(measured):
    model, data, _ = measured
    losses, start = ValidationLosses(model, data), model.snapshot(share_head=True)
    found = losses(moved(start, 0.1))
    model.write(moved(start, 0.1).tensors)
    assert torch.equal(found, cross_entropy(logits(model, data), torch.from_numpy(data.labels), reduction="none"))
    assert not torch.equal(losses(start), found), "the model holds another adapter afterwards"


def test_what_was_measured_a_moment_ago_is_not_run_again(measured):
    model, data, runs = measured
    losses, start = ValidationLosses(model, data), model.snapshot(share_head=True)
    steps = [moved(start, float(step)) for step in STEPS]
    first = [losses(adapter) for adapter in steps]
    assert all(losses(adapter) is found for adapter, found in zip(steps, first, strict=True))
    assert len(runs) == len(STEPS)
    losses(moved(start, 0.0))  # equal values in other tensors may change
    losses(steps[0])  # the oldest was forgotten
    assert len(runs) == len(STEPS) + 2
    assert len(losses.known) == len(STEPS)


def test_values_in_bf16_are_close_and_not_the_same(measured):
    model, data, _ = measured
    start = model.snapshot(share_head=True)
    exact, rounded = (ValidationLosses(model, data, bfloat16)(start) for bfloat16 in (False, True))
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, atol=0.05)


def test_only_the_very_same_tensors_in_one_order_are_the_same():
    a, b = torch.zeros(1), torch.zeros(1)
    assert same_objects([a, b], [a, b])
    assert not any(same_objects([a, b], other) for other in ([a, b.clone()], [b, a], [a]))
