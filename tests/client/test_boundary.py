import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from fedhello.allocation.needs import needs
from fedhello.client.boundary import BoundaryCache, Kept, Reuse
from fedhello.client.calibration import calibrate
from fedhello.client.cost_model import predicted
from fedhello.client.memory import StepMemory
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import Images
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import IMAGES, ModelSource
from fedhello.types import Allocation, Update

SETTINGS = TrainingSettings(
    rounds=4, epochs=2, batch_size=4, optimizer="sgd", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip
ROOM = 10**9


def warm(model):
    """Give every factor values, so that what stands below depends on them."""
    generator = torch.Generator().manual_seed(1)
    start = model.snapshot(share_head=True).tensors
    model.write({name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in start.items()})
    return model


def trained(model, data, blocks, boundary=None, settings=SETTINGS, **changes):
    """Train a round from the model's values, which it keeps; return the new values, metrics and calls of block 0."""
    adapter = model.snapshot(share_head=True)
    names = adapter.names(Allocation(blocks))
    work = Assignment(0, 0, names, data, (0, 1, 2), seed=0, boundary=boundary, cache=ROOM)
    calls = []
    inside = next(model.block_modules()[0].children())
    handle = inside.register_forward_hook(lambda *_: calls.append(1))
    try:
        values, metrics = local_training(model, replace(work, **changes), settings)
    finally:
        handle.remove()
        model.write(adapter.tensors)
    return values, metrics, len(calls)


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def close(one, other):
    return all(torch.allclose(value, other[name], rtol=1e-4, atol=1e-6) for name, value in one.items())


@pytest.mark.parametrize("blocks", [(), (2,), (1, 2)])
@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_rounds_from_kept_activations_are_those_that_compute_them_but_for_rounding(
    blocks, autocast, tiny_model, random_examples
):
    model, data, boundary = warm(tiny_model()), random_examples(), BoundaryCache()
    settings = replace(SETTINGS, autocast=autocast)
    plain, told, calls = trained(model, data, blocks, settings=settings)
    first, told_first, calls_first = trained(model, data, blocks, boundary, settings)
    again, told_again, calls_again = trained(model, data, blocks, boundary, settings)
    other, *_ = trained(model, data, blocks, BoundaryCache(), settings)
    assert equal(first, again) and equal(first, other)
    if autocast == "none":
        assert close(plain, first) and told["loss"] == pytest.approx(told_again["loss"], rel=1e-6)
    # Two epochs of three batches; a pass of three, and two to try the model; nothing.
    assert (calls, calls_first, calls_again) == (6, 3 + 2, 0)
    assert told_again["peak_bytes"] <= told_first["peak_bytes"] <= 1.05 * told["peak_bytes"]
    assert boundary.nbytes == data.lengths().sum() * 8 * 4


def test_a_step_that_trains_a_block_takes_as_much_memory_as_without(tiny_model, random_examples):
    model, data, boundary = warm(tiny_model(width=64)), random_examples(), BoundaryCache()
    _, plain, _ = trained(model, data, (2,))
    for _ in range(2):
        _, told, _ = trained(model, data, (2,), boundary)
        assert told["peak_bytes"] == pytest.approx(plain["peak_bytes"], rel=0.02)


def factor(model, block):
    return next(name for name in model.block_of if model.block_of[name] == block and "lora_B" in name)


def frozen(model, block):
    return next(p for n, p in model.module.named_parameters() if f"layer.{block}.intermediate" in n and "weight" in n)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda model: model.write({factor(model, 0): 2 * model.read([factor(model, 0)])[factor(model, 0)]}), True),
        (lambda model: model.write({factor(model, 2): 2 * model.read([factor(model, 2)])[factor(model, 2)]}), False),
        (lambda model: frozen(model, 1).detach().mul_(2), True),
        (lambda model: frozen(model, 2).detach().mul_(2), False),
        (lambda model: model.logits_layer.weight.detach().mul_(2), False),
    ],
)
def test_they_are_computed_again_exactly_if_a_weight_below_changes(change, again, tiny_model, random_examples):
    model, data, boundary = warm(tiny_model()), random_examples(), BoundaryCache()
    trained(model, data, (2,), boundary)
    change(model)
    found, _, calls = trained(model, data, (2,), boundary)
    assert (calls > 0) == again
    assert close(trained(model, data, (2,))[0], found)


def test_other_samples_another_block_and_another_type_are_computed_anew(tiny_model, random_examples):
    model, data, boundary = warm(tiny_model()), random_examples(), BoundaryCache()
    trained(model, data, (2,), boundary)
    assert trained(model, random_examples(seed=1), (2,), boundary)[2] == 3
    trained(model, data, (1, 2), boundary)
    assert close(trained(model, data, (2,))[0], trained(model, data, (2,), boundary)[0])
    bfloat16 = replace(SETTINGS, autocast="bfloat16")
    assert trained(model, data, (2,), boundary, bfloat16)[2] > 0
    assert trained(model, data, (2,), boundary, absent=(1,))[2] > 0


def test_nothing_is_kept_where_dropout_changes_it_and_the_log_says_so(tiny_model, random_examples, caplog):
    model, data, boundary = warm(tiny_model(dropout=0.2)), random_examples(), BoundaryCache()
    with caplog.at_level(logging.WARNING, "fedhello"):
        for _ in range(2):
            assert equal(trained(model, data, (2,))[0], trained(model, data, (2,), boundary)[0])
    assert boundary.nbytes == 0
    assert [record.getMessage() for record in caplog.records] == [
        "activations below block 2 are not kept: dropout changes the activations in each pass. Set "
        "model.frozen_dropout=false, which leaves dropout out below the lowest block that trains"
    ]
    model.frozen_dropout = False
    plain, kept = trained(model, data, (2,))[0], trained(model, data, (2,), boundary)[0]
    assert close(plain, kept) and boundary.nbytes > 0


def test_nothing_is_kept_beyond_the_clients_bytes(tiny_model, random_examples, caplog):
    model, data, boundary = warm(tiny_model()), random_examples(), BoundaryCache()
    size = int(data.lengths().sum()) * 8 * 4
    assert equal(trained(model, data, (2,))[0], trained(model, data, (2,), boundary, cache=size - 1)[0])
    assert boundary.nbytes == 0 and "of client 0 are not kept: they take more than its" in caplog.text
    trained(model, data, (2,), boundary, cache=size)
    assert boundary.nbytes == size


def test_the_clients_that_trained_longest_ago_give_way(tiny_model, random_examples):
    model, every = warm(tiny_model()), {k: random_examples(seed=k) for k in range(3)}
    sizes = [int(data.lengths().sum()) * 8 * 4 for data in every.values()]
    boundary = BoundaryCache(most=sum(sizes) - 1)
    for k in (0, 1, 0, 2):
        trained(model, every[k], (2,), boundary, client=k)
    assert trained(model, every[0], (2,), boundary, client=0)[2] == 0
    assert trained(model, every[1], (2,), boundary, client=1)[2] > 0


def test_a_round_on_some_samples_and_one_of_all_blocks_keep_nothing(tiny_model, random_examples):
    model, data, boundary = warm(tiny_model()), random_examples(), BoundaryCache()
    trained(model, data, (0, 1, 2), boundary)
    trained(model, data, (2,), boundary, replace(SETTINGS, samples=8))
    assert boundary.nbytes == 0


def test_a_decoder_and_its_padding(tiny_decoder, random_examples):
    model, data, boundary = warm(tiny_decoder()), random_examples(), BoundaryCache()
    assert close(trained(model, data, (2,))[0], trained(model, data, (2,), boundary)[0]) and boundary.nbytes > 0


def test_images_are_kept_sample_by_sample():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    base = FoundationModel(ViTForImageClassification(config), None, ModelSource("tiny", "tiny"), IMAGES)
    options = {"rank": 2, "alpha": 2, "dropout": 0.0, "targets": "attention-qv", "seed": 0}
    model, boundary = warm(attach_lora(base, num_labels=3, **options)), BoundaryCache()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    data = Images(pixels, np.arange(9), np.arange(9) % 3, (0.5,) * 3, (0.5,) * 3)
    assert close(trained(model, data, (2,))[0], trained(model, data, (2,), boundary)[0])
    assert boundary.nbytes == 9 * 5 * 16 * 4


def test_what_is_kept_does_not_count_as_memory_of_the_training():
    kept = Kept("", None, torch.zeros(25), None)
    measured = {"peak_bytes": 70.0, "process_bytes": 300.0, "loss": 1.0}
    first = Reuse(None, [], None, kept, filled=True, peak_bytes=90)
    assert first.counted(measured) == {"peak_bytes": 90.0, "process_bytes": 200.0, "loss": 1.0, "passes_below": 1.0}
    assert replace(first, filled=False, peak_bytes=0).counted(measured) == measured | {"passes_below": 0.0}
    assert first.counted({"loss": 1.0}) == {"loss": 1.0, "passes_below": 1.0}


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_files_hold_what_memory_would_and_are_gone_with_the_cache(
    autocast, tiny_model, random_examples, tmp_path, monkeypatch, caplog
):
    model, data, settings = warm(tiny_model()), random_examples(), replace(SETTINGS, autocast=autocast)
    inside, outside = BoundaryCache(), BoundaryCache(most=0, folder=tmp_path / "kept")
    one, *_ = trained(model, data, (2,), inside, settings)
    for calls in (3 + 2, 0):
        other, _, ran = trained(model, data, (2,), outside, settings)
        assert equal(one, other) and ran == calls
    assert inside.nbytes == outside.nbytes > 0
    assert list((tmp_path / "kept").iterdir()) == []
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len(mapped) == 1
    del outside
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    *_, ran = trained(model, data, (2,), BoundaryCache(folder=tmp_path), settings)
    assert ran == 6 + 2 + 1 and f"{tmp_path} has no room for them (No space left on device)" in caplog.text


@pytest.mark.parametrize("blocks", [(), (2,), (1, 2)])
def test_the_flops_of_rounds_are_predicted_with_what_is_kept(blocks, tiny_model, random_examples):
    """Two epochs; the pass runs the blocks below alone, once. Of this model all that is not a block is small."""
    model, data, boundary = warm(tiny_model()), random_examples(), BoundaryCache()
    costs, settings = calibrate(model, policies=("keep",)), replace(SETTINGS, measure_memory=False)
    trained(model, data, blocks, BoundaryCache(), settings)  # tries the model

    def played(cache):
        with StepMemory((), count_flops=True) as memory:
            _, metrics, _ = trained(model, data, blocks, cache, settings)
        update = Update(0, 0, len(data), {}, metrics)
        return memory.flops, predicted(update, Allocation(blocks), costs).metrics["flops"]

    plain, first, again = played(None), played(boundary), played(boundary)
    for measured, found in (plain, again):
        assert found == pytest.approx(measured, rel=0.03)
    assert again[1] < first[1] < plain[1]
    # The pass is sorted by length, with less padding; the first round with this cache tries the model as well.
    assert first[1] - again[1] == pytest.approx((plain[1] - again[1]) / 2, rel=1e-3)
    planned = needs(costs.at((4, 20), [(4, 20)] * 4).with_kept_activations(1 / 2), Allocation(blocks)).flops
    without = needs(costs.at((4, 20), [(4, 20)] * 4), Allocation(blocks)).flops
    below = 3 - len(blocks)
    assert without - planned == pytest.approx(below * costs.forward_flops.at([(4, 20)] * 2), rel=1e-6)
