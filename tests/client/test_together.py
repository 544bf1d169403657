"""Clients that share each forward pass get what each gets alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhello.client.settings import TrainingSettings
from fedhello.client.together import joined, train_together
from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import IGNORED, Batch
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
    weight_decay=0.1,
    momentum=0.9,
    loss="cross_entropy",
    autocast="none",
    measure_memory=False,
)


def begun(model, random_examples, counts, blocks, **changes):
    """Clients with different numbers of samples, and so of steps, and start values of their own."""
    shared = model.snapshot(share_head=True)
    names = shared.names(Allocation(blocks))
    random = torch.Generator().manual_seed(1)
    fixed = {n: 0.3 * torch.randn(v.shape, generator=random) for n, v in shared.tensors.items()}
    starts = [
        {n: v + 0.3 * torch.randn(v.shape, generator=random) if n in names else v for n, v in fixed.items()}
        for _ in counts
    ]
    whole = random_examples(sum(counts))
    parts = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    works = [Assignment(k, 0, names, whole.subset(part), (0, 1, 2), seed=0, **changes) for k, part in enumerate(parts)]
    return works, starts


def both(model, works, starts, settings):
    alone = []
    for work, start in zip(works, starts, strict=True):
        model.write(start)
        alone.append(local_training(model, work, settings))
    model.write(starts[0])
    before = model.snapshot(share_head=True).tensors
    found = train_together(model, works, starts, settings)
    after = model.snapshot(share_head=True).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    return alone, found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd"},
        {"proximal": 0.1, "loss": "adjusted", "lr_depth": 0.5, "lr_head": 2.0},
        {"loss": "restricted", "samples": 3},
    ],
)
@pytest.mark.parametrize("blocks", [(1,), (0, 2)])
def test_each_client_gets_what_it_gets_alone(blocks, changes, tiny_model, random_examples):
    model, settings = tiny_model(), replace(SETTINGS, **changes)
    works, starts = begun(model, random_examples, (3, 9, 4), blocks)
    alone, found = both(model, works, starts, settings)
    for (values, metrics), (others, counted) in zip(alone, found, strict=True):
        assert values.keys() == others.keys()
        for name in values:
            assert torch.allclose(values[name], others[name], atol=1e-5), name
        assert counted.pop("loss") == pytest.approx(metrics.pop("loss"), rel=1e-5)
        assert metrics.pop("seconds") and counted.pop("seconds") and counted == metrics
    assert len({values["steps"] for _, values in alone}) > 1 or settings.samples


def test_absent_blocks_and_corrections_are_those_of_the_client(tiny_model, random_examples):
    model = tiny_model()
    works, starts = begun(model, random_examples, (5, 5), (2,), absent=(1,))
    shifts = [{n: torch.full_like(starts[0][n], 0.1 * (k + 1)) for n in works[0].names} for k in range(2)]
    works = [replace(work, correction=shift) for work, shift in zip(works, shifts, strict=True)]
    alone, found = both(model, works, starts, SETTINGS)
    for (values, _), (others, _) in zip(alone, found, strict=True):
        assert all(torch.allclose(values[name], others[name], atol=1e-5) for name in values)


def test_one_client_that_is_not_finite_leaves_the_others_alone(tiny_model, random_examples):
    model = tiny_model()
    works, starts = begun(model, random_examples, (4, 4), (1,))
    name = works[0].names[0]
    starts[0] = {**starts[0], name: torch.full_like(starts[0][name], torch.nan)}
    model.write(starts[1])
    values, _ = local_training(model, works[1], SETTINGS)
    lost, (others, _) = train_together(model, works, starts, SETTINGS)
    assert isinstance(lost, UpdateError) and "client 0" in str(lost)
    assert all(torch.allclose(values[name], others[name], atol=1e-5) for name in values)


def test_batches_are_filled_up_to_their_common_shape():
    short = Batch({"input_ids": torch.tensor([[5]]), "attention_mask": torch.tensor([[1]])}, torch.tensor([[5]]))
    ids = torch.tensor([[6, 7], [8, 9]])
    long = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    whole = joined([short, long], 3)
    assert whole.inputs["input_ids"].tolist() == [[5, 3], [5, 3], [6, 7], [8, 9]]
    assert whole.inputs["attention_mask"].tolist() == [[1, 0], [1, 0], [1, 1], [1, 1]]
    assert whole.labels.tolist() == [[5, IGNORED], [5, IGNORED], [6, 7], [8, 9]]
