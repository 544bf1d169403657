"""Laws of DP-SGD on one client: sensitivity, what a step is without noise, noise where nothing was drawn, an audit."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import cross_entropy

from fedhello.client import private_training as module
from fedhello.client.activations import activation_policies
from fedhello.client.memory import StepMemory
from fedhello.client.private_training import (
    check_samples_apart,
    clipped_sum,
    gradient_copies,
    lengths_of,
    median_length,
    private_training,
    sample_gradients,
)
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.errors import ModelError
from fedhello.model.forward import predictions
from fedhello.types import Allocation, NoisySteps

SETTINGS = TrainingSettings(
    rounds=10,
    epochs=1,
    batch_size=4,
    optimizer="sgd",
    lr=1e-2,
    lr_schedule="constant",
    lr_decay=0.99,
    weight_decay=0.0,
    momentum=0.0,
    loss="cross_entropy",
    autocast="none",
    measure_memory=False,
)
NOTHING = 1e-12
"""A noise multiplier that is lost in rounding, unless the clip is huge."""


@pytest.fixture
def model(tiny_model):
    """A model whose B are not zero, so that A has a gradient, and without dropout."""
    found = tiny_model()
    drawn = torch.Generator().manual_seed(1)
    tensors = found.snapshot(share_head=True).tensors
    found.write({name: 0.3 * torch.randn(v.shape, generator=drawn) for name, v in tensors.items()})
    for part in found.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return found


def names_of(model, blocks=(1, 2), factors="AB"):
    return model.snapshot(share_head=False).names(Allocation(blocks, factors=factors, head=False))


def parameters_of(model, **which):
    names = names_of(model, **which)
    return dict(zip(names, model.set_trainable(names), strict=True))


def assignment(model, data, **changes):
    return replace(Assignment(0, 0, names_of(model), data, (0, 1, 2), seed=0), **changes)


def one_by_one(model, parameters, data):
    """Gradients of batches of one sample each, by plain autograd."""
    found = []
    for i in range(len(data.labels)):
        out = predictions(model, data.batch(np.array([i])))
        gradients = torch.autograd.grad(cross_entropy(out.z, out.y), list(parameters.values()))
        found.append(dict(zip(parameters, gradients, strict=True)))
    return found


def length(values):
    return math.sqrt(sum(float(value.double().square().sum()) for value in values.values()))


@pytest.mark.parametrize("policy", ["keep", "recompute"])
def test_gradients_of_samples_are_those_of_batches_of_one(model, random_examples, policy):
    data, parameters = random_examples(samples=5), parameters_of(model)
    expected = one_by_one(model, parameters, data)
    with activation_policies(model.block_modules(), [policy] * 3, lambda _: None):
        found = sample_gradients(model, parameters, data.batch(np.arange(5)), cross_entropy)
    for name, value in found.items():
        assert torch.allclose(value, torch.stack([one[name] for one in expected]), atol=1e-6)
    assert lengths_of(found) == pytest.approx([length(one) for one in expected], rel=1e-4)


def test_gradients_of_samples_are_close_where_blocks_compress(model, random_examples):
    data, parameters = random_examples(samples=5), parameters_of(model)
    expected = one_by_one(model, parameters, data)
    with activation_policies(model.block_modules(), ["compress"] * 3, lambda _: None):
        found = sample_gradients(model, parameters, data.batch(np.arange(5)), cross_entropy)
    for i, one in enumerate(expected):
        off = length({name: found[name][i] - one[name] for name in one})
        assert 0 < off < 0.1 * length(one)


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1e3])
def test_one_sample_changes_a_sum_by_at_most_c_whatever_is_in_the_batch(model, random_examples, clip):
    data, parameters = random_examples(samples=9), parameters_of(model)
    whole = clipped_sum(model, parameters, data, np.arange(9), 4, cross_entropy, clip)
    lengths = [length(one) for one in one_by_one(model, parameters, data)]
    for left_out in (0, 4, 8):
        rest = clipped_sum(model, parameters, data, np.delete(np.arange(9), left_out), 4, cross_entropy, clip)
        change = length({name: whole[name] - rest[name] for name in whole})
        assert change == pytest.approx(min(clip, lengths[left_out]), rel=1e-3)
    alone = length(clipped_sum(model, parameters, data, np.array([2]), 4, cross_entropy, clip))
    assert alone <= clip * (1 + 1e-12)


def test_a_sample_without_a_finite_gradient_counts_as_nothing(model, random_examples):
    data, parameters = random_examples(samples=3), parameters_of(model)

    def broken(z, y):
        return cross_entropy(z, y) * (math.nan if torch.equal(y, torch.from_numpy(data.labels[1:2])) else 1.0)

    same = [i for i in range(3) if data.labels[i] == data.labels[1]]
    others = np.array([i for i in range(3) if i not in same])
    found = clipped_sum(model, parameters, data, np.arange(3), 4, broken, 0.05)
    expected = clipped_sum(model, parameters, data, others, 4, cross_entropy, 0.05)
    assert all(torch.allclose(found[name], expected[name], atol=1e-9) for name in found)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_noise_and_clip_a_step_on_all_samples_is_that_of_plain_training(
    model, random_examples, optimizer, monkeypatch
):
    # Adam steps as far along a gradient of nothing as along any other, so even a little noise shows now and then.
    monkeypatch.setattr(module, "gaussian", lambda shape, _: torch.zeros(shape, dtype=torch.float64))
    data = random_examples(samples=8)
    lr = {"sgd": 1.0, "adamw": 1e-3}[optimizer]
    settings = replace(SETTINGS, batch_size=8, optimizer=optimizer, lr=lr, epochs=3)
    work, start = assignment(model, data), model.snapshot(share_head=True).tensors
    plain, _ = local_training(model, work, settings)
    model.write(start)
    how = NoisySteps(NOTHING, 1.0, 3)
    private = private_training(model, work, replace(settings, batch_size=3), how, 1e3)
    assert set(private) == set(plain)
    assert max(float((plain[name] - start[name]).abs().max()) for name in plain) > 1e-4
    for name, value in plain.items():
        assert torch.allclose(private[name], value, atol=1e-6)


def test_a_step_with_nobody_in_it_is_noise_over_the_expected_batch(model, random_examples, monkeypatch):
    """The divisor is q n, whoever was drawn, and every number that trains gets noise."""
    monkeypatch.setattr(module, "_loss", None)
    monkeypatch.setattr(module, "clipped_sum", lambda model, parameters, *_: module._zeros(parameters))
    monkeypatch.setattr(module, "_loss", lambda *_: None)
    data, start = random_examples(samples=20), model.snapshot(share_head=True).tensors
    how = NoisySteps(2.0, 0.01, 1)
    found = private_training(model, assignment(model, data), replace(SETTINGS, lr=1.0), how, 0.5)
    moved = torch.cat([((value - start[name]) / (2.0 * 0.5 / (0.01 * 20))).flatten() for name, value in found.items()])
    assert set(found) == set(names_of(model)) and len(moved) == 128
    assert kstest(moved.numpy(), "norm").pvalue > 1e-4
    assert 0.7 < float(moved.std()) < 1.3


def test_every_sample_is_in_a_step_with_the_rate_and_nobody_can_draw_it_again(model, random_examples, monkeypatch):
    drawn = []

    def spy(model, parameters, data, positions, *_):
        drawn.append(tuple(positions))
        return module._zeros(parameters)

    monkeypatch.setattr(module, "clipped_sum", spy)
    work = assignment(model, random_examples(samples=30))
    private_training(model, work, SETTINGS, NoisySteps(1.0, 0.2, 300), 1.0)
    counts = np.bincount([i for one in drawn for i in one], minlength=30)
    assert abs(counts - 60).max() < 5.5 * math.sqrt(300 * 0.2 * 0.8)
    assert len(set(drawn)) > 280
    assert np.std([len(one) for one in drawn]) == pytest.approx(math.sqrt(30 * 0.2 * 0.8), rel=0.2)


def test_a_step_that_fails_is_released_with_its_noise(model, random_examples, monkeypatch, caplog):
    """Else the error, which follows from the data, would show."""

    def failing(*_):
        raise ValueError("a sentence with a name in it")

    monkeypatch.setattr(module, "clipped_sum", failing)
    start = model.snapshot(share_head=True).tensors
    with caplog.at_level(logging.WARNING):
        found = private_training(
            model,
            assignment(model, random_examples()),
            SETTINGS,
            NoisySteps(1.0, 0.5, 1),
            1.0,
        )
    assert all(not torch.equal(value, start[name]) for name, value in found.items())
    assert "contributes no change to a step of round 0: a sentence" in caplog.text


def test_an_audit_with_a_canary_finds_no_more_than_the_claim_and_finds_missing_noise(model, random_examples):
    """One step on three samples, with and without the first, seen along the canary's gradient; q = 1."""
    pytest.importorskip("dp_accounting")
    from tests.faults.test_56_differential_privacy import DELTA, audit

    from fedhello.privacy.ledger import Planned, calibrated

    data, clip = random_examples(samples=3), 1e-3
    (release,) = calibrated([Planned("steps", 1.0)], 1.0, DELTA)
    parameters = parameters_of(model)
    sums = [clipped_sum(model, parameters, data, np.array(who), 4, cross_entropy, clip) for who in ((0, 1, 2), (1, 2))]
    canary = {name: sums[0][name] - sums[1][name] for name in sums[0]}
    at = [sum(float((one[name] * canary[name]).sum()) for name in one) / clip**2 for one in sums]
    assert at[0] - at[1] == pytest.approx(1.0, rel=1e-6)

    def seen(noise):
        return [x + torch.randn(4000, dtype=torch.float64) * noise for x in at]

    torch.manual_seed(0)
    assert audit(*seen(release.noise)) <= 1.0
    assert audit(*seen(release.noise / 10)) > 1.0


@pytest.mark.slow
def test_an_audit_of_whole_trainings_finds_no_more_than_the_claim_and_finds_missing_noise(model, random_examples):
    """Three steps by SGD, in each of which a sample is with probability 0.7; the canary's gradient counts or does not.

    What is seen is where training ended, along the canary's first gradient, of which σ is the least for ε = 1.
    """
    pytest.importorskip("dp_accounting")
    from tests.faults.test_56_differential_privacy import DELTA, audit

    from fedhello.privacy.ledger import Planned, calibrated

    data, clip, lr, n, q, steps = random_examples(samples=3), 1e-3, 1e-3, 3, 0.7, 3
    (release,) = calibrated([Planned("steps", 1.0, q, steps)], 1.0, DELTA)
    start, parameters = model.snapshot(share_head=True).tensors, parameters_of(model)
    canary = clipped_sum(model, parameters, data, np.array([0]), 4, cross_entropy, clip)
    counted = module.clipped_sum

    def without(model, parameters, data, positions, *more):
        return counted(model, parameters, data, positions[positions > 0], *more)

    def ends(noise, times):
        settings = replace(SETTINGS, lr=lr)
        for _ in range(times):
            model.write(start)
            found = private_training(model, assignment(model, data), settings, NoisySteps(noise, q, steps), clip)
            moved = sum(float(((start[name] - found[name]).double() * canary[name]).sum()) for name in canary)
            yield moved * q * n / (lr * clip**2)

    def seen(noise, times):
        there = torch.tensor(list(ends(noise, times)), dtype=torch.float64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "clipped_sum", without)
            return there, torch.tensor(list(ends(noise, times)), dtype=torch.float64)

    there, gone = seen(release.noise, 600)
    assert float(there.mean() - gone.mean()) == pytest.approx(q * steps, abs=0.5)
    assert audit(there, gone) <= 1.0
    assert audit(*seen(release.noise / 10, 300)) > 1.0


def test_the_median_length_is_that_of_the_gradients(model, random_examples):
    data = random_examples(samples=7)
    expected = np.median([length(one) for one in one_by_one(model, parameters_of(model), data)])
    assert median_length(model, names_of(model), data, SETTINGS) == pytest.approx(expected, rel=1e-4)


def test_a_step_holds_no_more_than_the_gradients_that_are_planned(model, random_examples):
    """Beyond the peak of a plain step: the gradients of samples, and of each trained value a few numbers."""
    shapes = {"A": (512, 8), "B": (8, 512)}
    names = names_of(model, blocks=(0, 1, 2))
    model.write({name: torch.randn(shapes[name.split("lora_")[1][0]]) for name in names})
    data, parameters = random_examples(samples=8), parameters_of(model, blocks=(0, 1, 2))
    size = sum(parameter.nbytes for parameter in parameters.values())
    peaks = []
    for private in (False, True):
        memory = StepMemory(model.module.parameters())
        with memory:
            if private:
                clipped_sum(model, parameters, data, np.arange(8), 8, cross_entropy, 1.0)
            else:
                out = predictions(model, data.batch(np.arange(8)))
                torch.autograd.grad(cross_entropy(out.z, out.y), list(parameters.values()))
        peaks.append(memory.peak_bytes)
    assert peaks[0] + 3 * size < peaks[1] <= peaks[0] + size * (gradient_copies(8) - 1)


def test_a_model_that_mixes_samples_is_refused(model, random_examples):
    batch = random_examples(samples=2).batch(np.arange(2))
    check_samples_apart(model, names_of(model), batch)
    layer = model.block_modules()[2].attention.self.query
    plain = layer.forward
    layer.forward = lambda x, *rest: plain(torch.cat([x, x]), *rest)[: len(x)]
    with pytest.raises(ModelError, match="found 4 rows for 2 samples in a layer with LoRA"):
        check_samples_apart(model, names_of(model), batch)
    layer.forward = plain
    layer.odd = torch.nn.BatchNorm1d(4)
    with pytest.raises(ModelError, match=r"found batch normalisation in .*odd"):
        check_samples_apart(model, names_of(model), batch)
