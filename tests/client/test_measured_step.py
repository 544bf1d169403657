"""One step moment by moment: what blocks save and compute, and when they run."""

import pytest
from torch import nn

from fedhello.client.calibration import made_up
from fedhello.client.measured_step import bytes_by_block, measure_step, shape_of


def measured(model, trained, policy="keep", b=2, T=6):
    return measure_step(model, trained, policy, made_up(model, b, T), autocast=False, train_head=True)


def test_blocks_run_up_and_then_down_to_the_lowest_trained_one(tiny_model):
    found = measured(tiny_model(blocks=3), (1, 2))
    order = [(w.block, w.forward) for w in found.windows if w.block is not None]
    assert order == [(0, True), (1, True), (2, True), (2, False), (1, False)]
    assert [w.begin for w in found.windows[1:]] == [w.end for w in found.windows[:-1]]
    assert found.windows[-1].end == len(found.live)
    assert found.saved[0] == found.flops[0] == found.gradients[0] == 0 < found.forward_flops[0]
    assert min(found.saved[1:]) > 0 < min(found.flops[1:])
    assert found.gradients[1:] == bytes_by_block(tiny_model(blocks=3))[1:]


def test_the_first_blocks_input_stays_alive_though_nothing_holds_it_for_backward(tiny_model):
    model = tiny_model(blocks=3)
    without, whole = measured(model, (1, 2)), measured(model, (0, 2))
    size = 2 * 6 * 8 * 4
    assert without.alive_before(2) - whole.alive_before(2) == size
    assert whole.alive_before(2) == whole.alive_before(1)  # block 1 leaves nothing but its output
    less = without.with_more(-size)
    assert less.alive_before(2) == whole.alive_before(2)
    backward = next(w.begin for w in without.windows if not w.forward)
    assert (less.live[backward:] == without.live[backward:]).all()


def test_a_recomputed_block_saves_its_input_and_runs_forward_again(tiny_model):
    model = tiny_model(blocks=3)
    kept, again = measured(model, (0, 1, 2)), measured(model, (0, 1, 2), "recompute")
    assert again.saved[2] == 2 * 6 * 8 * 4 < kept.saved[2]
    assert again.flops[2] == kept.flops[2] + kept.forward_flops[2]
    assert [w.block for w in again.windows] == [w.block for w in kept.windows]


def test_a_block_that_runs_several_times_counts_as_often(tiny_model, monkeypatch):
    model = tiny_model(blocks=1)
    once = measured(model, (0,))
    block, layers = model.block_modules()[0], model.base.bert.encoder
    monkeypatch.setattr(layers, "layer", nn.ModuleList([block, block, block]))
    thrice = measured(model, (0,))
    assert thrice.saved[0] == pytest.approx(3 * once.saved[0], rel=0.05)  # the first one's input needs no gradient
    assert thrice.forward_flops[0] == 3 * once.forward_flops[0]
    assert sum(w.block == 0 and not w.forward for w in thrice.windows) == 3


def test_a_shape_counts_labels_of_a_language_model(tiny_model):
    model = tiny_model()
    assert shape_of(made_up(model, 2, 6)) == (2, 6)
    assert shape_of(made_up(model, 2, 6, answer=3)) == (2, 6, 3 + 2)  # the last token of the last text is padding
