"""What clients of few classes may minimise: by hand, and as local training does it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from fedhello.client.distillation import not_true_loss, teacher_logits
from fedhello.client.loss import LOSSES, adjusted_loss, data_loss, log_prior, one_vs_all_loss, register_loss
from fedhello.client.memory import StepMemory
from fedhello.client.settings import TrainingSettings, moments, rate_factor
from fedhello.client.training import Assignment, local_training
from fedhello.errors import ConfigError, UpdateError
from fedhello.model.evaluation import logits
from fedhello.types import Allocation

SGD = TrainingSettings(
    rounds=10, epochs=2, batch_size=12, optimizer="sgd", lr=0.5, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip


def warm(model):
    """Give B values other than zero, so that every factor has a gradient."""
    generator = torch.Generator().manual_seed(1)
    tensors = model.snapshot(share_head=True).tensors
    model.write({name: 0.3 * torch.randn(v.shape, generator=generator) for name, v in tensors.items()})
    return model


def assignment(model, data, blocks=(0, 1, 2)):
    names = model.snapshot(share_head=True).names(Allocation(blocks))
    return Assignment(0, 0, names, data, tuple(np.unique(data.labels).tolist()), seed=0)


def labelled(examples, labels):
    return replace(examples, labels=np.array(labels))


def slope(loss, z, y):
    z = torch.tensor(z, requires_grad=True)
    return torch.autograd.grad(loss(z, torch.tensor(y)), z)[0]


# logit adjustment


def test_the_prior_is_of_the_clients_own_smoothed_counts():
    assert log_prior(np.array([0, 0, 0, 1]), 3).exp().tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@pytest.mark.parametrize(("adjustment", "probability"), [(0.0, 1 / 3), (1.0, 4 / 7), (2.0, 16 / 21)])
def test_the_adjusted_loss_by_hand(adjustment, probability):
    loss = data_loss("adjusted", (0, 1), np.array([0, 0, 0, 1]), lambda: 3, adjustment, torch.device("cpu"))
    assert float(loss(torch.zeros(1, 3), torch.tensor([0]))) == pytest.approx(-math.log(probability))


def test_logits_that_say_nothing_are_the_optimum_of_the_adjusted_loss_where_inputs_say_nothing():
    """Frequencies 4, 2, 1 and priors alike: the plain loss would teach z = log π, the adjusted one leaves z = 0."""
    y = [0] * 4 + [1] * 2 + [2]
    shift = torch.tensor([4 / 7, 2 / 7, 1 / 7]).log()
    found = slope(lambda z, y: adjusted_loss(z, y, shift), [[0.0] * 3] * 7, y).sum(dim=0)
    assert torch.allclose(found, torch.zeros(3), atol=1e-6)
    assert not torch.allclose(slope(cross_entropy, [[0.0] * 3] * 7, y).sum(dim=0), torch.zeros(3), atol=1e-2)


def test_absent_classes_get_less_gradient_than_from_the_plain_loss_but_some():
    loss = data_loss("adjusted", (0,), np.zeros(8, int), lambda: 3, 1.0, torch.device("cpu"))
    z, y = [[0.0, 0.0, 0.0]], [0]
    assert slope(loss, z, y).tolist()[0] == pytest.approx([9 / 11 - 1, 1 / 11, 1 / 11])  # (8+1)/(8+3), 1/(8+3)
    assert float(slope(cross_entropy, z, y)[0, 1]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("loss", ["adjusted", "one_vs_all"])
def test_a_client_of_one_class_learns_something(loss, tiny_model, random_examples):
    model, data = warm(tiny_model()), labelled(random_examples(), [1] * 12)
    values, _ = local_training(model, assignment(model, data), replace(SGD, loss=loss))
    assert all(bool(value.isfinite().all()) for value in values.values())
    with pytest.raises(UpdateError, match="did not change"):
        local_training(model, assignment(model, data), replace(SGD, loss="restricted"))


# one against all


def test_the_one_vs_all_loss_by_hand():
    y = torch.tensor([0])
    assert float(one_vs_all_loss(torch.zeros(1, 3), y)) == pytest.approx(2 * math.log(2))
    z = torch.tensor([[2.0, -1.0, 0.5]])
    expected = math.log(1 + math.exp(-2)) + (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))) / 2
    assert float(one_vs_all_loss(z, y)) == pytest.approx(expected)


def test_in_one_vs_all_positives_and_negatives_balance_and_logits_do_not_compete():
    assert slope(one_vs_all_loss, [[0.0] * 5], [2]).tolist()[0] == pytest.approx([0.125, 0.125, -0.5, 0.125, 0.125])
    low = slope(one_vs_all_loss, [[-9.0, 0.0, 7.0, 0.0, 0.0]], [1])[0]
    assert 0 < float(low[0]) < 1e-4  # a logit that is low already is let alone
    assert float(low[1]) == -0.5  # whatever the other logits are


# not-true distillation


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_not_true_loss_by_hand(temperature):
    """The others' probabilities at T are 1/4 and 3/4, and the teacher's the other way round."""
    low, high = 0.0, temperature * math.log(3)
    z, teacher = torch.tensor([[9.0, low, high]]), torch.tensor([[-7.0, high, low]])
    found = not_true_loss(z, torch.tensor([0]), teacher, temperature)
    assert float(found) == pytest.approx(temperature**2 * 0.5 * math.log(3))  # 3/4 log 3 − 1/4 log 3


def test_the_right_class_is_free_and_the_teacher_itself_is_the_optimum():
    teacher = torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    found = slope(lambda z, y: not_true_loss(z, y, teacher, 1.0), [[5.0, -2.0, 2.0, 0.0]], [1])[0]
    assert float(found[1]) == 0
    assert bool((found[[0, 2, 3]] != 0).all())
    raised = (teacher + torch.tensor([0.0, 8.0, 0.0, 0.0]) + 3.0).tolist()
    assert torch.allclose(
        slope(lambda z, y: not_true_loss(z, y, teacher, 1.0), raised, [1]), torch.zeros(1, 4), atol=1e-6
    )


def test_the_teacher_is_the_model_in_evaluation_mode_in_the_order_of_the_samples(tiny_model, random_examples):
    model, data = warm(tiny_model(dropout=0.3)), random_examples(samples=11)
    expected = logits(model, data)
    model.module.train()
    found = teacher_logits(model, data, 4, False, np.random.default_rng(0))
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad


def test_the_teacher_predicts_once_per_round(tiny_model, random_examples):
    model, calls = warm(tiny_model()), []
    model.module.register_forward_hook(lambda module, *_: calls.append(module.training))
    settings = replace(SGD, epochs=3, batch_size=4, distillation=1.0)
    local_training(model, assignment(model, random_examples()), settings)
    assert calls == [False] * 3 + [True] * 9


@pytest.mark.parametrize("samples", [9, 40])
def test_the_teacher_takes_no_more_memory_than_the_smallest_step(samples, tiny_model, random_examples):
    """That of a client that trains the head alone; what is returned comes on top, and inputs, uncounted in a step."""
    model, data = warm(tiny_model()), random_examples(samples=samples)
    work = assignment(model, data, blocks=())
    step = local_training(model, work, replace(SGD, batch_size=4, epochs=1))[1]["peak_bytes"]
    with StepMemory(model.module.parameters()) as memory:
        teacher_logits(model, data, 4, False, np.random.default_rng(0))
    inputs = 4 * (9 + 9 + 1) * 8  # of a batch, of which the next is made while one is there
    assert 0 < memory.peak_bytes <= step + 4 * samples * 3 + 2 * inputs


# in local training


def by_hand(model, data, names, objective, pull=0.0):
    """Two steps of SGD on all samples, with the gradients of autograd; the teacher is the model before them."""
    batch = data.batch(np.arange(len(data)))
    start = model.read(names)
    parameters = [model._parameters[name] for name in names]
    teacher = model.module(**batch.inputs).logits.detach()
    for _ in range(2):
        loss = objective(model.module(**batch.inputs).logits, batch.labels, teacher)
        if pull:
            loss = loss + pull / 2 * sum(((model._parameters[n] - start[n]) ** 2).sum() for n in names)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.5 * gradient
    return model.read(names)


def plain(z, y, _):
    return cross_entropy(z, y)


def distilled(z, y, teacher):
    """λ T² KL with T = 2 and λ = 3, sample by sample."""
    total = cross_entropy(z, y)
    for mine, right, theirs in zip(z, y, teacher, strict=True):
        others = [c for c in range(len(mine)) if c != right]
        p, q = log_softmax(theirs[others] / 2, dim=0), log_softmax(mine[others] / 2, dim=0)
        total = total + 3 * 4 * kl_div(q, p, reduction="sum", log_target=True) / len(z)
    return total


@pytest.mark.parametrize(
    ("changes", "objective", "pull"),
    [
        ({}, plain, 0.0),
        ({"proximal": 0.4}, plain, 0.4),
        ({"distillation": 3.0, "distillation_temperature": 2.0}, distilled, 0.0),
        ({"distillation": 3.0, "distillation_temperature": 2.0, "proximal": 0.4}, distilled, 0.4),
        ({"loss": "one_vs_all"}, lambda z, y, _: one_vs_all_loss(z, y), 0.0),
    ],
)
def test_two_steps_follow_the_gradient_of_the_whole_objective(changes, objective, pull, tiny_model, random_examples):
    model, twin, data = warm(tiny_model()), warm(tiny_model()), random_examples()
    work = assignment(model, data)
    values, metrics = local_training(model, work, replace(SGD, **changes))
    expected = by_hand(twin, data, sorted(work.names), objective, pull)
    assert all(torch.allclose(values[name], expected[name], atol=2e-6) for name in work.names)
    if changes:
        other, _ = local_training(warm(tiny_model()), work, SGD)
        assert any(float((values[name] - other[name]).abs().max()) > 1e-4 for name in work.names)
    if "loss" not in changes:
        assert metrics["loss"] < 1.5  # that of the data alone: the additions are not in it


def test_a_clients_class_that_is_absent_keeps_its_place_among_the_others(tiny_model, random_examples):
    """With two of four classes, distillation holds what the model says of the other two against each other."""
    data = labelled(random_examples(classes=4), [0, 1] * 6)

    def drift(weight):
        model = warm(tiny_model(classes=4))
        before = logits(model, data)
        settings = replace(SGD, epochs=20, lr=0.2, distillation=weight)
        local_training(model, assignment(model, data), settings)
        after = logits(model, data)
        learnt = bool((after.argmax(dim=1) < 2).all()) and not bool((before.argmax(dim=1) < 2).all())
        return float(((after - before)[:, 2] - (after - before)[:, 3]).abs().mean()), learnt

    (free, learnt), (held, learnt_too) = drift(0.0), drift(2.0)
    assert held < free / 2
    assert learnt and learnt_too  # that samples are of the client's own classes


def test_what_is_added_takes_next_to_no_memory_in_a_step(tiny_model, random_examples):
    def peak(**changes):
        model, settings = warm(tiny_model()), replace(SGD, batch_size=4, **changes)
        return local_training(model, assignment(model, random_examples()), settings)[1]["peak_bytes"]

    assert peak(proximal=1.0, lr_head=2.0, lr_depth=0.5) == peak()
    assert peak(distillation=1.0) <= peak() + 16 * 4 * 3 * 4  # a few numbers per sample and class
    assert moments(replace(SGD, proximal=1.0)) == moments(SGD)


# learning rates


def test_a_step_is_as_long_as_its_rate_says(tiny_model, random_examples):
    """One step of SGD: what changes is the plain change times 3 in the head, 1, 1/2 and 1/4 in blocks 2, 1 and 0."""

    def change(**changes):
        model = warm(tiny_model())
        work = assignment(model, random_examples())
        before = model.read(work.names)
        after, _ = local_training(model, work, replace(SGD, epochs=1, lr=0.1, **changes))
        return {name: (value - before[name], model.block_of[name]) for name, value in after.items()}

    plain, scaled = change(), change(lr_head=3.0, lr_depth=0.5)
    for name, (moved, block) in scaled.items():
        assert torch.allclose(moved, rate_factor(block, 3, 3.0, 0.5) * plain[name][0], atol=1e-6), name


# from outside


@pytest.fixture
def registered():
    def enter(function):
        register_loss("of-this-test", function)
        return data_loss("of-this-test", (0,), np.array([0, 1]), lambda: 3, 1.0, torch.device("cpu"))

    yield enter
    LOSSES.table.pop("of-this-test", None)


def each(z, y):
    return cross_entropy(z, y, reduction="none")


@pytest.mark.parametrize("function", [each, cross_entropy])
def test_a_loss_from_outside_is_what_a_client_minimises(registered, function, tiny_model, random_examples):
    loss = registered(function)
    z, y = [[0.5, -1.0, 2.0], [0.0, 1.0, 0.0]], [2, 0]
    assert torch.allclose(slope(loss, z, y), slope(cross_entropy, z, y))
    data = random_examples()
    trained = [
        local_training(model, assignment(model, data), replace(SGD, loss=kind))[0]
        for kind in ("of-this-test", "cross_entropy")
        for model in [warm(tiny_model())]
    ]
    assert all(torch.allclose(trained[0][name], value, atol=1e-6) for name, value in trained[1].items())


def raises(z, y):
    raise KeyError("none")


@pytest.mark.parametrize(
    ("function", "kind", "sentence"),
    [
        (lambda z, y: 1.0, ConfigError, "found a float"),
        (lambda z, y: z, ConfigError, r"shape \(2,\); found a tensor of shape \(2, 3\)"),
        (lambda z, y: z.detach().mean(), ConfigError, "found a result without a gradient"),
        (lambda z, y: z.mean() * float("nan"), UpdateError, "expected finite values of the loss of-this-test"),
        (raises, ConfigError, "it raised KeyError: 'none'"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_refused(registered, function, kind, sentence):
    loss = registered(function)
    with pytest.raises(kind, match=sentence):
        loss(torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1]))
