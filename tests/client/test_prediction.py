import numpy as np
import pytest

from fedhello.allocation.geometric import allocate_blocks
from fedhello.client.activations import choose_policies
from fedhello.client.prediction import Growth, StepCosts, calibrate, predict
from fedhello.client.training import Assignment, TrainingSettings, local_training, state_bytes
from fedhello.data.batches import Examples
from fedhello.types import Allocation

SETTINGS = TrainingSettings(
    rounds=1, epochs=2, batch_size=64, optimizer="adamw", lr=1e-3, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip


def test_predictions_by_hand():
    # Per token a block saves 10, 2 or 4 bytes by its policy and works with 5 or 13; it has 100 bytes of gradients.
    kinds = [(p, r) for p in ("keep", "recompute", "compress") for r in ("lowest", "trained", "frozen")]
    saved = {kind: Growth({"keep": 10, "recompute": 2, "compress": 4}[kind[0]], 0) for kind in kinds}
    transient = {kind: Growth(5 if kind[0] != "recompute" else 13, 0) for kind in kinds}
    costs = StepCosts(
        saved, transient, outside=7, outside_head_only=3, head_only=Growth(1, 0), gradients=(100, 100, 100)
    )
    keep = predict(costs, (1, 2), ("keep",) * 3, samples=2, tokens=3, state_bytes=1000)
    # saved: 7·2 + two blocks of 10·6; peak: at the top, + 5·6; or at block 1: 14 + 60 + 30 + 100 of gradients
    assert (keep.saved_bytes, keep.peak_bytes) == (134, 14 + 60 + 30 + 100 + 1000)
    mixed = predict(costs, (1, 2), ("keep", "recompute", "compress"), samples=20, tokens=30, state_bytes=0)
    assert mixed.saved_bytes == 140 + 2 * 600 + 4 * 600
    assert mixed.peak_bytes == max(140 + 1200 + 13 * 600 + 100, 140 + 3600 + 5 * 600)
    head = predict(costs, (), ("keep",) * 3, samples=2, tokens=3, state_bytes=0)
    assert (head.saved_bytes, head.peak_bytes) == (6, 6)


def test_growth_by_hand():
    assert Growth(2, 3).at(samples=5, tokens=4) == 2 * 20 + 3 * 80


@pytest.mark.parametrize("rule", ["keep", "recompute-frozen", "recompute", "compress"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_predictions_meet_the_measurement(rule, dropout, tiny_model):
    model = tiny_model(blocks=6, dropout=dropout, width=64)
    costs, adapter = calibrate(model), model.snapshot(share_head=True)
    for samples, tokens in ((16, 20), (40, 30)):
        rng = np.random.default_rng(0)
        data = Examples(tuple(rng.integers(1, 50, tokens) for _ in range(samples)), np.arange(samples) % 3, pad=0)
        for pattern, capacity in (
            ("bottleneck", 6),
            ("bottleneck", 3),
            ("inverted_triangle", 2),
            ("triangle", 1),
            ("triangle", 0),
        ):
            blocks = allocate_blocks(pattern, capacity, 6)
            settings = TrainingSettings(**{**vars(SETTINGS), "activations": rule})
            work = Assignment(0, 0, adapter.names(Allocation(blocks)), data, (0, 1, 2), seed=0)
            values, measured = local_training(model, work, settings)
            model.write(adapter.tensors)
            state = state_bytes(sum(value.nbytes for value in values.values()), settings)
            found = predict(costs, blocks, choose_policies(rule, blocks, 6), samples, tokens, state)
            assert found.saved_bytes == pytest.approx(measured["saved_bytes"], rel=0.03)
            assert found.peak_bytes == pytest.approx(measured["peak_bytes"], rel=0.1)


def test_calibration_changes_no_value_and_no_random_state(tiny_model):
    import torch

    model = tiny_model(dropout=0.1)
    before = model.snapshot(share_head=True).tensors
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    calibrate(model)
    assert torch.equal(torch.rand(1), expected)
    after = model.snapshot(share_head=True).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.module.parameters())
