import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedhello.client.loss import absent_classes, prediction_loss
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.errors import UpdateError
from fedhello.types import Allocation

SETTINGS = TrainingSettings(
    rounds=10,
    epochs=2,
    batch_size=4,
    optimizer="adamw",
    lr=1e-2,
    lr_schedule="constant",
    lr_decay=0.99,
    weight_decay=0.0,
    momentum=0.9,
    loss="cross_entropy",
    autocast="none",
)


def assignment(model, data, blocks, head=True, **changes):
    names = model.snapshot(share_head=head).names(Allocation(blocks))
    return replace(Assignment(0, 0, names, data, (0, 1, 2), seed=0), **changes)


def warm(model):
    """Give B values other than zero, so that every factor has a gradient."""
    tensors = model.snapshot(share_head=True).tensors
    generator = torch.Generator().manual_seed(1)
    model.write({name: 0.3 * torch.randn(v.shape, generator=generator) for name, v in tensors.items()})
    return model


@pytest.mark.parametrize("count", [12, 30, 120])
def test_training_block_1_changes_block_1_alone(count, tiny_model, random_examples):
    # The published code matches "1" as a substring, and with it 10, 11, 21, 100 and so on.
    model = warm(tiny_model(blocks=count))
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    local_training(model, assignment(model, random_examples(), (1,), head=False), replace(SETTINGS, epochs=1))
    changed = [name for name, p in model.module.named_parameters() if not torch.equal(p, before[name])]
    assert len(changed) == 4
    assert all(".layer.1." in name for name in changed)


@pytest.mark.parametrize("blocks", [(), (0,), (1,), (0, 2), (0, 1, 2)])
def test_exactly_the_allocated_tensors_change(blocks, tiny_model, random_examples):
    model = warm(tiny_model())
    before = model.snapshot(share_head=True).tensors
    everything_before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    work = assignment(model, random_examples(), blocks)
    values, _ = local_training(model, work, SETTINGS)
    assert set(values) == set(work.names)
    after = model.snapshot(share_head=True).tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(work.names)
    also_changed = {n for n, p in model.module.named_parameters() if not torch.equal(p, everything_before[n])}
    assert len(also_changed) == len(changed)


def test_frozen_means_no_gradient_and_no_optimiser_state(tiny_model, random_examples, monkeypatch):
    held = []
    real = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        with_gradient = [p for p in model.module.parameters() if p.grad is not None]
        held.append((self.param_groups[0]["params"], with_gradient))
        result = real(self, *args, **kwargs)
        held[-1] += (list(self.state),)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    model = warm(tiny_model())
    work = assignment(model, random_examples(), (1,))
    local_training(model, work, SETTINGS)
    for in_optimiser, with_gradient, with_state in held:
        identities = {id(p) for p in in_optimiser}
        assert len(identities) == len(work.names) == 6
        assert {id(p) for p in with_gradient} == identities
        assert {id(p) for p in with_state} == identities


def test_nothing_below_the_lowest_trainable_block_runs_with_autograd(tiny_model, random_examples):
    model = warm(tiny_model(blocks=4))
    seen = {}

    def note(i, output):
        seen[i] = (output[0] if isinstance(output, tuple) else output).requires_grad

    for i, layer in enumerate(model.module.get_base_model().bert.encoder.layer):
        layer.register_forward_hook(lambda _, __, output, i=i: note(i, output))
    local_training(model, assignment(model, random_examples(), (2,)), replace(SETTINGS, epochs=1))
    assert seen == {0: False, 1: False, 2: True, 3: True}


def test_saved_bytes_fall_with_the_lowest_trainable_block(tiny_model, random_examples):
    saved = {}
    for lowest in range(4):
        model = warm(tiny_model(blocks=4))
        work = assignment(model, random_examples(), tuple(range(lowest, 4)))
        _, metrics = local_training(model, work, SETTINGS)
        saved[lowest] = metrics["saved_bytes"]
        assert metrics["peak_bytes"] > metrics["saved_bytes"]
    assert saved[0] > saved[1] > saved[2] > saved[3] > 0
    assert saved[2] <= saved[0] * (2 / 4 + 0.1)


def test_the_peak_counts_the_optimisers_older_state(tiny_model, random_examples):
    data = random_examples(samples=4)  # one batch per epoch, so that every step is alike

    def peak(epochs):
        model = warm(tiny_model())
        return local_training(model, assignment(model, data, (0, 1, 2)), replace(SETTINGS, epochs=epochs))[1]

    trained = sum(v.numel() for v in tiny_model().snapshot(share_head=True).tensors.values())
    moments = 2 * 4 * trained
    assert moments <= peak(2)["peak_bytes"] - peak(1)["peak_bytes"] <= moments + 8 * 14


def test_measuring_memory_changes_no_result(tiny_model, random_examples):
    def result(measure):
        model = warm(tiny_model(dropout=0.1))
        work = assignment(model, random_examples(), (0, 1, 2))
        return local_training(model, work, replace(SETTINGS, measure_memory=measure))[0]

    one, other = result(True), result(False)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_step_is_plain_sgd_by_hand(tiny_model, random_examples):
    model, twin = warm(tiny_model()), warm(tiny_model())
    data = random_examples(samples=4)
    settings = replace(SETTINGS, optimizer="sgd", momentum=0.0, epochs=1, batch_size=4, lr=0.5)
    values, metrics = local_training(model, assignment(model, data, (0, 1, 2)), settings)
    import numpy as np

    batch = data.batch(np.arange(4))
    loss = cross_entropy(twin.module(**batch.inputs).logits, batch.labels)
    loss.backward()
    for name, value in values.items():
        parameter = twin._parameters[name]
        assert torch.allclose(value, parameter.detach() - 0.5 * parameter.grad, atol=1e-6)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert metrics["steps"] == metrics["batches"] == 1


def test_training_repeats_bit_for_bit_and_differs_by_client_round_and_seed(tiny_model, random_examples):
    def result(**changes):
        model = warm(tiny_model(dropout=0.2))
        work = assignment(model, random_examples(), (0, 1, 2), **changes)
        return torch.cat([v.flatten() for v in local_training(model, work, SETTINGS)[0].values()])

    base = result()
    assert torch.equal(base, result())
    for changes in ({"client": 1}, {"round": 1}, {"seed": 1}):
        assert not torch.equal(base, result(**changes))


def test_training_leaves_the_global_random_state_alone(tiny_model, random_examples):
    model = warm(tiny_model(dropout=0.2))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    local_training(model, assignment(model, random_examples(), (0,)), SETTINGS)
    assert torch.equal(torch.rand(1), expected)


def test_bf16_autocast_trains_in_fp32_tensors(tiny_model, random_examples):
    model = warm(tiny_model())
    work = assignment(model, random_examples(), (0, 1, 2))
    values, metrics = local_training(model, work, replace(SETTINGS, autocast="bfloat16"))
    assert {v.dtype for v in values.values()} == {torch.float32}
    plain = local_training(warm(tiny_model()), work, SETTINGS)[1]["loss"]
    assert metrics["loss"] == pytest.approx(plain, rel=0.05)
    assert metrics["loss"] != plain


def test_a_loss_that_is_not_finite_is_an_error(tiny_model, random_examples):
    model = warm(tiny_model())
    model.write({model.head_tensor_name("weight"): torch.full((3, 8), float("nan"))})
    with pytest.raises(UpdateError, match="client 0 in round 0 got NaN"):
        local_training(model, assignment(model, random_examples(), (0,)), SETTINGS)


def test_an_update_that_changed_nothing_is_an_error(tiny_model, random_examples):
    model = warm(tiny_model())
    work = assignment(model, random_examples(), (0,))
    with pytest.raises(UpdateError, match="did not change block 0, the head"):
        local_training(model, work, replace(SETTINGS, lr=0.0))


def test_a_head_may_rest_where_the_data_is_fitted_already(tiny_model, random_examples):
    model = warm(tiny_model())
    head = {name: 1e6 * model.read([name])[name] for name in model.head_names}  # steps of 1e-2 are lost in them
    model.write(head)
    values, _ = local_training(model, assignment(model, random_examples(), (0, 1, 2)), replace(SETTINGS, lr=1e-6))
    assert all(torch.equal(values[name], before) for name, before in head.items())
    assert any(name not in head and bool(value.any()) for name, value in values.items())


def test_the_schedule_reaches_the_optimiser(tiny_model, random_examples, monkeypatch):
    rates = []
    real = torch.optim.AdamW.__init__

    def spy(self, parameters, lr, **kwargs):
        rates.append(lr)
        real(self, parameters, lr=lr, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", spy)
    model = warm(tiny_model())
    for t in (0, 5):
        work = assignment(model, random_examples(), (0,), round=t)
        local_training(model, work, replace(SETTINGS, lr_schedule="linear"))
    assert rates == pytest.approx([1e-2, 0.5e-2])


def test_the_restricted_loss_runs_over_the_clients_own_classes():
    logits = torch.tensor([[1.0, 2.0, 9.0, 3.0]], requires_grad=True)
    label = torch.tensor([1])
    absent = absent_classes((1, 3), num_labels=4)
    loss = prediction_loss(logits, label, absent)
    assert float(loss.detach()) == pytest.approx(math.log(1 + math.exp(1)))
    loss.backward()
    assert logits.grad[0, 0] == logits.grad[0, 2] == 0
    assert logits.grad[0, 1] < 0 < logits.grad[0, 3]


def test_the_plain_loss_sees_all_classes():
    assert absent_classes((0, 1), num_labels=2) is None


@pytest.mark.parametrize(("samples", "epochs", "steps"), [(None, 3, 9), (5, 2, 4), (100, 1, 3)])
def test_every_step_is_told_with_their_number(samples, epochs, steps, tiny_model, random_examples):
    told = []
    work = assignment(tiny_model(), random_examples(samples=11), (0,), told=lambda *counts: told.append(counts))
    local_training(tiny_model(), work, replace(SETTINGS, samples=samples, epochs=epochs, batch_size=4))
    assert told == [(step, steps) for step in range(steps + 1)]
