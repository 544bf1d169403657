"""The trial that chooses a number type: on time alone, of steps that change nothing."""

import itertools

import numpy as np
import pytest
import torch

from fedhello.client import trial
from fedhello.model.attention import attention_of

LENGTHS = np.array([3, 5, 7])


@pytest.fixture
def timed(tiny_model, monkeypatch):
    """A model whose steps take the given seconds in float32 and in bf16; the cost of each first one is ignored."""

    def build(float32, bfloat16, **more):
        model, now, ran = tiny_model(**more), [0.0], []

        def step(model, trained, batch, watch, autocast):
            first = all(before != autocast for before, *_ in ran)
            ran.append((autocast, tuple(trained), batch.shape))
            now[0] += 100.0 if first else (bfloat16 if autocast else float32)

        monkeypatch.setattr(trial, "_KNOWN", {})
        monkeypatch.setattr(trial, "SMALLEST", 0)
        monkeypatch.setattr(trial, "run_step", step)
        monkeypatch.setattr(trial, "_computes_in_bfloat16", lambda _: True)
        monkeypatch.setattr(trial.time, "process_time", lambda: now[0])
        return model, ran

    return build


@pytest.mark.parametrize(("bfloat16", "pays"), [(1.7, True), (1.9, False), (3.0, False)])
def test_it_compares_the_time_of_steps_on_two_blocks_and_a_typical_batch(timed, bfloat16, pays):
    model, ran = timed(2.0, bfloat16, blocks=5)
    assert trial.time_in_bfloat16(model, 16, LENGTHS, None) == pytest.approx(bfloat16 / 2)
    assert trial.bfloat16_pays(model, 16, LENGTHS, None) == pays
    assert [kind for kind, *_ in ran] == list(itertools.islice(itertools.cycle((False, True)), 2 * trial.TURNS))
    assert {(trained, shape) for _, trained, shape in ran} == {((0, 4), (3, 5))}


def test_nothing_is_tried_where_it_cannot_pay(timed, monkeypatch):
    model, ran = timed(2.0, 1.0)
    monkeypatch.setattr(trial, "_computes_in_bfloat16", lambda _: False)
    assert trial.time_in_bfloat16(model, 16, LENGTHS, None) is None
    monkeypatch.setattr(trial, "_computes_in_bfloat16", lambda _: True)
    monkeypatch.setattr(trial, "SMALLEST", 10**6)
    assert trial.time_in_bfloat16(model, 16, LENGTHS, None) is None
    assert not trial.bfloat16_pays(model, 16, LENGTHS, None)
    assert not ran


@pytest.mark.parametrize("autocast", [False, True])
def test_eager_attention_is_tried_against_the_fused_one_where_nothing_drops(autocast, timed, tiny_model, monkeypatch):
    model, _ = timed(2.0, 2.0, blocks=5)
    ran, clock = [], iter(np.cumsum([9, 9, 9, 7, 1, 9, 1, 7, 4, 9, 3]).tolist())

    def step(model, trained, batch, watch, autocast):
        ran.append((attention_of(model), autocast, batch.shape))

    monkeypatch.setattr(trial, "run_step", step)
    monkeypatch.setattr(trial.time, "process_time", lambda: next(clock, 1000.0))
    monkeypatch.setattr(trial, "TURNS", 2)
    assert trial.time_in_eager(model, 16, LENGTHS, None, autocast, before=False) == pytest.approx(7 / 9)
    assert ran == [("sdpa", False, (3, 5)), ("eager", autocast, (3, 5))] * 2
    assert attention_of(model) == "sdpa"
    for other in (tiny_model(dropout=0.1), tiny_model(attention="eager")):
        assert trial.time_in_eager(other, 16, LENGTHS, None, autocast, before=False) is None
    assert len(ran) == 4


def test_a_real_trial_leaves_the_model_and_the_random_state_as_they_were(tiny_model, monkeypatch):
    monkeypatch.setattr(trial, "_KNOWN", {})
    monkeypatch.setattr(trial, "SMALLEST", 0)
    monkeypatch.setattr(trial, "_computes_in_bfloat16", lambda _: True)
    model = tiny_model(blocks=4, dropout=0.1)
    before, state = model.read(model.block_of), torch.get_rng_state()
    assert trial.time_in_bfloat16(model, 4, LENGTHS, None) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.read(model.block_of).items())
    assert torch.equal(state, torch.get_rng_state())
    assert model.blocks.count == len(model.block_modules()) == 4


def test_a_model_that_insists_on_a_number_type_stays_in_float32(timed, monkeypatch, caplog):
    model, _ = timed(2.0, 1.0)

    def step(model, trained, batch, watch, autocast):
        if autocast:
            raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr(trial, "run_step", step)
    assert trial.time_in_bfloat16(model, 16, LENGTHS, None) is None
    assert "must have the same dtype" in caplog.text
