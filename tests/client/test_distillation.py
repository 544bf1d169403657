from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhello.client import distillation
from fedhello.client.distillation import distillation_loss, learn_from_each_other
from fedhello.factors import held_part
from fedhello.model.evaluation import logits
from fedhello.strategy import Distillation
from fedhello.types import Allocation

HOW = Distillation("others", temperature=1.0, epochs=1, lr=5e-3, batch_size=4)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_the_loss_is_the_divergence_of_the_two_softmaxes(temperature):
    rng = np.random.default_rng(0)
    z, teacher = rng.normal(size=(2, 5, 3))
    total = 0.0
    for row, target in zip(z, teacher, strict=True):
        q = np.exp(row / temperature) / np.exp(row / temperature).sum()
        p = np.exp(target / temperature) / np.exp(target / temperature).sum()
        total += sum(p[c] * np.log(p[c] / q[c]) for c in range(3))
    found = distillation_loss(torch.from_numpy(z), torch.from_numpy(teacher), temperature)
    assert float(found) == pytest.approx(temperature**2 * total / 5, rel=1e-5)
    assert float(distillation_loss(torch.from_numpy(z), torch.from_numpy(z), temperature)) == pytest.approx(0, abs=1e-6)


@pytest.fixture
def pupils(tiny_model):
    """A model with dropout, and three adapters of unlike values, of ranks 1, 2 and 2."""

    def build():
        model, found = tiny_model(blocks=2, dropout=0.2), []
        whole = model.snapshot(share_head=True)
        for i, r in enumerate((1, 2, 2)):
            rng = torch.Generator().manual_seed(i)
            values = {n: 0.5 * torch.randn(v.shape, generator=rng) for n, v in whole.tensors.items()}
            found.append(held_part(whole.with_tensors(values), Allocation((0, 1), ranks=(r, r))))
        return model, found

    return build


def predictions(model, models, public):
    found = []
    for adapter in models:
        model.write(adapter.tensors)
        found.append(logits(model, public))
    return torch.stack(found)


@pytest.mark.parametrize("teachers", ["others", "all"])
def test_each_learns_from_the_mean_of_the_others_or_of_all_as_they_were_at_the_epochs_start(
    teachers, pupils, random_examples, monkeypatch
):
    model, models = pupils()
    public = random_examples(samples=8)
    z = predictions(model, models, public)
    seen = []

    def spy(student, teacher, temperature):
        seen.append(teacher)
        return distillation_loss(student, teacher, temperature)

    monkeypatch.setattr(distillation, "distillation_loss", spy)
    # One batch holds all samples, in some order.
    learn_from_each_other(model, public, models, replace(HOW, teachers=teachers, batch_size=8), seed=0, t=0)
    assert len(seen) == 3
    for i, taught in enumerate(seen):
        who = range(3) if teachers == "all" else [j for j in range(3) if j != i]
        expected = sum(z[j] for j in who) / len(who)
        order = torch.cdist(taught, expected).argmin(dim=1)
        assert sorted(order.tolist()) == list(range(8))
        assert torch.allclose(taught, expected[order], atol=1e-6)


def test_every_model_keeps_its_shape_and_comes_closer_to_the_others(pupils, random_examples):
    model, models = pupils()
    public = random_examples(samples=16)
    frozen = {n: p.clone() for n, p in model.module.named_parameters() if "lora" not in n and "classifier" not in n}
    before = predictions(model, models, public)
    state = torch.random.get_rng_state()
    learnt = learn_from_each_other(model, public, models, replace(HOW, epochs=8), seed=0, t=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in zip(models, learnt, strict=True):
        assert {n: v.shape for n, v in one.tensors.items()} == {n: v.shape for n, v in other.tensors.items()}
        assert all(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)
    after = predictions(model, learnt, public)

    def apart(z):
        return sum(float(distillation_loss(z[i], (z.sum(0) - z[i]) / 2, 1.0)) for i in range(3))

    assert apart(after) < 0.5 * apart(before)
    assert all(torch.equal(p, frozen[n]) for n, p in model.module.named_parameters() if n in frozen)


def test_learning_repeats_by_seed_and_round_and_looks_at_no_label(pupils, random_examples):
    def learnt(seed, t, labels):
        model, models = pupils()
        public = random_examples(samples=8)
        public = replace(public, labels=public.labels * labels)
        after = learn_from_each_other(model, public, models, HOW, seed, t)
        return [{n: v.tolist() for n, v in m.tensors.items()} for m in after]

    first = learnt(0, 0, labels=1)
    assert learnt(0, 0, labels=0) == first
    assert learnt(0, 1, labels=1) != first
    assert learnt(1, 0, labels=1) != first
