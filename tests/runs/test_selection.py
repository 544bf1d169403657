"""Which model is handed back: the one that validation data is surest of."""

import contextlib
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handmade import SETTINGS

from fedhello.runs.loop import rounds, start
from fedhello.runs.selection import ERRORS, first_selection, selection_after
from fedhello.state import RunState
from fedhello.types import Adapter

N = 16
MEAN = "model.pooling=mean"


def session_with(losses, selects=True):
    """A session whose validation data have these losses under every adapter; it counts how often they are taken."""
    asked = []

    def of(adapter):
        asked.append(adapter)
        return torch.as_tensor(losses)

    return SimpleNamespace(settings=replace(SETTINGS, selects=selects), losses=of, keeps_head=False), asked


def state(t, name="θ"):
    return RunState(t, Adapter({name: torch.zeros(1)}, {}))


def selected(losses):
    """A state after two rounds with the model before training selected."""
    chosen = state(0, "θ0").adapter
    return replace(state(2), selected=chosen, selected_losses=torch.as_tensor(losses).double())


def test_first_the_state_itself_is_selected_once():
    session, asked = session_with(torch.ones(N))
    first = first_selection(session, state(0))
    assert first.selected is first.adapter is first.model
    assert (first.selected_round, first.selected_losses.dtype) == (0, torch.float64)
    assert first_selection(session, first) is first
    assert len(asked) == 1
    plain, asked = session_with(torch.ones(N), selects=False)
    assert first_selection(plain, before := state(0)) is before
    assert selection_after(plain, before) is before
    assert asked == []


@pytest.mark.parametrize(("factor", "taken"), [(1.01, True), (0.99, False)])
def test_a_model_takes_the_place_where_its_mean_gain_is_more_than_three_standard_errors(factor, taken):
    assert ERRORS == 3.0
    spread = torch.tensor([-1.0, 1.0] * (N // 2), dtype=torch.float64)
    error = float(spread.std()) / math.sqrt(N)
    before = selected(torch.full((N,), 5.0))
    session, _ = session_with(5.0 - (spread + factor * 3 * error))
    after = selection_after(session, before)
    assert (after is not before) == taken
    assert (after.model is before.adapter, after.selected_round) == ((True, 2) if taken else (False, 0))
    assert after.adapter is before.adapter, "training goes on from the last model either way"


@pytest.mark.parametrize("losses", [torch.full((N,), math.nan), torch.full((N,), 5.0), torch.full((N,), 6.0)])
def test_what_is_not_finite_or_not_better_is_not_taken(losses):
    before = selected(torch.full((N,), 5.0))
    assert selection_after(session_with(losses)[0], before) is before


def test_one_validation_sample_tells_nothing():
    before = selected([5.0])
    assert selection_after(session_with([0.0])[0], before) is before


def test_what_is_handed_back_is_the_surest_model_and_training_goes_on(prepared, monkeypatch):
    session = prepared("train.rounds=3", "model.final=false")
    losses = iter([1.0, 0.5, 0.49, 2.0])
    spread = torch.linspace(-0.05, 0.05, len(session.server.validation), dtype=torch.float64)
    found = {}

    def of(adapter):
        if id(adapter) not in found:
            # The third model is better by chance: some samples are, others are not.
            mean = next(losses)
            found[id(adapter)] = (mean + (spread if mean == 0.49 else 0 * spread), adapter)
        return found[id(adapter)][0]

    session = replace(session, losses=of)
    before = start(session).state
    states, results = zip(*rounds(session, before), strict=True)
    assert [result.selected for result in results] == [1, 1, 1]
    assert all(state.model is states[0].adapter for state in states)
    assert not any(state.adapter is states[0].adapter for state in states[1:])
    assert [result.test for result in results[1:]] == [results[0].test] * 2, "it is the one that is scored"


def test_a_run_with_one_validation_sample_keeps_the_first_model(prepared):
    """As a file of validation data can have."""
    session = prepared("train.rounds=1", "model.final=false")
    one = session.server.validation.subset(np.array([0]))
    session = replace(session, server=replace(session.server, validation=one))
    session.drift.parts, session.drift.order = (one,), np.array([0])
    before = start(session).state
    ((state, result),) = rounds(session, before)
    assert result.selected == 0
    assert state.selected_losses.shape == (1,)


@pytest.mark.parametrize("more", [[], ["model.refresh=2"]], ids=["", "refreshed"])
def test_a_run_that_selects_goes_on_bit_for_bit_also_past_its_end(workplace, call, tmp_path, more):
    words = [
        str(workplace / "tiny.yaml"), MEAN, "method.name=rgd-hla", "train.lr_schedule=constant", "--quiet",
        f"run.out={tmp_path}", *more,
    ]  # fmt: skip
    with contextlib.chdir(workplace):
        assert call(workplace, "run", *words, "run.name=whole", "train.rounds=4")[0] == 0
        assert call(workplace, "run", *words, "run.name=parts", "train.rounds=2")[0] == 0
        assert call(workplace, "resume", str(tmp_path / "parts"), "train.rounds=4", "--quiet")[0] == 0
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts")]
    assert summaries[0]["selection"] == summaries[1]["selection"] and summaries[0]["selection"]["rounds"] == 4
    files = [(tmp_path / name / "adapter" / "head.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    files = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
