"""A run goes on with more rounds, or another learning rate: what comes out is what its last state leads to."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

import fedhello as fh
from fedhello.client.settings import learning_rate
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.going_on import changes_of, has_ended
from fedhello.runs.summary import KeyChange
from fedhello.session import RunSettings
from fedhello.state import RunState
from fedhello.types import Adapter


class At(fh.Callback):
    """Ends a run after some rounds."""

    def __init__(self, last):
        self.last = last

    def on_round(self, state, record):
        return state.round == self.last


def adapter(run):
    return (run.path / "adapter" / "adapter_model.safetensors").read_bytes()


def last_state(run):
    return Checkpoints(run.path / "checkpoints").latest(pytest.fail).state


def played(words, state):
    """Return the last state of rounds that are played by hand from a state."""
    *_, (state, _) = fh.rounds(fh.prepare("tiny.yaml", words), state)
    return state


def same(one, other):
    return all(one.adapter.tensors[name].equal(value) for name, value in other.adapter.tensors.items())


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rounds_are_added_to_a_finished_run_with_the_rates_of_a_longer_one(place, schedule):
    words = {"train.lr_schedule": schedule, "train.rounds": 2}
    for name in "ab":
        fh.run("tiny.yaml", words | {"run.name": name})
    before = last_state(fh.load_run("runs/a"))
    longer = fh.resume("runs/a", {"train.rounds": "+2"})
    assert same(last_state(longer), played(words | {"train.rounds": 4}, before))
    assert [record.report.round for record in longer.rounds] == [0, 1, 2, 3]
    assert longer.summary.changes == (KeyChange("train.rounds", 2, 2, 4),)
    rate = learning_rate(longer.session.engine.settings, 2)
    assert rate == pytest.approx(longer.session.engine.settings.lr / 2), "the third of four rounds has half the rate"
    (note,) = [note for note in longer.summary.notes if "train.rounds is 4 instead of 2 from round 3 on" in note]
    assert f"of a run of 4, {rate:.3g} in round 3; those before had the rates of one of 2" in note
    # Interrupted on the way, it comes to the same.
    assert fh.resume("runs/b", {"train.rounds": 4}, callbacks=[At(3)]).summary.status == "stopped"
    again = fh.resume("runs/b")
    assert adapter(again) == adapter(longer)
    assert again.summary.changes == longer.summary.changes
    assert [one for one in again.summary.notes if "train.rounds is" in one] == [note]


def test_without_a_schedule_that_ends_a_longer_run_is_what_it_would_have_been(place):
    words = {"train.lr_schedule": "constant", "train.rounds": 2}
    fh.run("tiny.yaml", words | {"run.name": "a"})
    longer = fh.resume("runs/a", {"train.rounds": "+1"})
    whole = fh.run("tiny.yaml", words | {"run.name": "b", "train.rounds": 3})
    assert adapter(longer) == adapter(whole)
    assert longer.summary.changes == ()


def test_another_learning_rate_holds_from_where_the_run_goes_on(place):
    words = {"train.rounds": 4}
    for name in "ab":
        fh.run("tiny.yaml", words | {"run.name": name}, callbacks=[At(2)])
    before = last_state(fh.load_run("runs/a"))
    slow = fh.resume("runs/a", {"train.lr": 1e-4})
    assert same(last_state(slow), played(words, replace(before, lr=1e-4)))
    assert slow.summary.changes == (KeyChange("train.lr", 2, 1e-2, 1e-4),)
    assert any("train.lr is 0.0001 instead of 0.01 from round 3 on" in note for note in slow.summary.notes)
    (flag,) = [flag for flag in slow.summary.flags if "another learning rate" in flag]
    assert flag.endswith("that of the state: 0.0001")
    assert fh.load_run("runs/a").config.train.lr == 1e-2, "the configuration is the one that the run started with"
    # It stays where the run is resumed once more, and may be taken back.
    fh.resume("runs/b", {"train.lr": 1e-4}, callbacks=[At(3)])
    assert adapter(fh.resume("runs/b", {"train.lr": 1e-4})) == adapter(slow)
    fh.run("tiny.yaml", words | {"run.name": "d"}, callbacks=[At(2)])
    fh.resume("runs/d", {"train.lr": 1e-4, "train.rounds": 9}, callbacks=[At(3)])
    back = fh.resume("runs/d", {"train.lr": 1e-2}, callbacks=[At(4)])
    assert [change.after for change in back.summary.changes] == [9, 1e-4, 1e-2]
    assert last_state(back).lr is None


def test_a_finished_run_is_not_cut_and_stays_as_it_is(place):
    run = fh.run("tiny.yaml", {"run.name": "a"})
    folder = RunFolder(run.path)
    assert has_ended(folder, (2, None, None), (2, None, 0.9)) and not has_ended(
        folder, (2, None, None), (3, None, None)
    )
    with pytest.raises(fh.ConfigError, match=r"expected more than the 2 rounds that runs/a has finished; found .*=1"):
        fh.resume(run.path, {"train.rounds": 1})
    assert fh.resume(run.path).summary == run.summary


def test_rounds_that_have_finished_are_not_undone():
    session = SimpleNamespace(settings=RunSettings(0, rounds=3), engine=SimpleNamespace(settings=SimpleNamespace(lr=1)))
    found = {"train": {"rounds": 5}}
    for done in (3, 4):
        with pytest.raises(fh.ConfigError, match=rf"expected more than the {done} rounds that have finished"):
            changes_of(session, found, RunState(done, Adapter({}, {})), None)
    _, (change,) = changes_of(session, found, RunState(2, Adapter({}, {})), None)
    assert change == KeyChange("train.rounds", 2, 5, 3)
    assert changes_of(session, {"train": {"rounds": 3}}, RunState(3, Adapter({}, {})), None)[1] == [], (
        "its last write had failed"
    )


def test_a_run_that_ended_by_its_settings_goes_on_only_with_others(place, call):
    run = fh.run("tiny.yaml", {"run.name": "a", "train.rounds": 3, "train.target": 0.01, "train.selection": "last"})
    assert (run.summary.status, run.summary.rounds, run.summary.ended) == ("stopped", 1, True)
    code, out, _ = call(place, "resume", "runs/a")
    assert (code, "stopped after round 1 of 3 by train.target" in out) == (0, True)
    assert "there is nothing to resume" in out
    assert fh.load_run("runs/a").summary == run.summary
    whole = fh.run("tiny.yaml", {"run.name": "b", "train.rounds": 3, "train.selection": "last"})
    assert adapter(fh.resume("runs/a", {"train.target": None})) == adapter(whole)
    assert not fh.run("tiny.yaml", {"run.name": "c", "train.rounds": 3}, callbacks=[At(1)]).summary.ended


def test_what_a_run_that_has_ended_would_leave_out_is_refused(place, call):
    fh.run("tiny.yaml", {"run.name": "a", "train.rounds": 1, "train.lr": 0.01})
    code, _, err = call(place, "resume", "runs/a", "train.lr=0.5")
    assert (code, "expected rounds to come that would train with train.lr=0.5; runs/a has ended" in err) == (2, True)
    assert call(place, "resume", "runs/a", "train.lr=0.01")[0] == 0, "which it has"
    fh.resume("runs/a", {"train.lr": 0.5, "train.rounds": "+1"})
    assert call(place, "resume", "runs/a", "train.lr=0.5")[0] == 0, "which it has by now"
    assert call(place, "resume", "runs/a", "train.lr=0.01")[0] == 2
    stops = {"run.name": "b", "train.rounds": 8, "train.stop": {"patience": 1, "min_delta": 1}}
    run = fh.run("tiny.yaml", stops)
    assert (run.summary.status, run.summary.rounds) == ("stopped", 1)
    before = (run.path / "config.yaml").read_text()
    for words in ({"train.rounds": "+2"}, {"train.target": 0.9}, {"train.rounds": "+2", "train.lr": 0.5}):
        with pytest.raises(fh.ConfigError, match=r"expected another train\.stop, .* Change train\.stop too: train\.st"):
            fh.resume(run.path, words)
    with pytest.raises(fh.ConfigError, match=r"runs/b has ended"):
        fh.resume(run.path, {"train.lr": 0.5})
    assert (run.path / "config.yaml").read_text() == before
    assert fh.resume(run.path, {"train.rounds": 2, "train.stop": None}).summary.rounds == 2


def test_on_the_command_line_a_run_goes_on_with_more_rounds(place, call):
    assert call(place, "run", "tiny.yaml", "run.name=a", "--quiet")[0] == 0
    code, out, err = call(place, "run", "--continue", "runs/a", "train.rounds=+1", "--json")
    assert (code, err.count("train.rounds is 3 instead of 2")) == (0, 1)
    assert json.loads(out)["rounds"] == 3
    code, _, err = call(place, "run", "--continue", "runs/a", "tiny.yaml")
    assert (code, "expected no configuration file with --continue" in err) == (2, True)
    code, _, err = call(place, "run", "--continue", "runs/a", "--dry-run")
    assert (code, "expected no --dry-run here" in err) == (2, True)
    code, _, err = call(place, "resume", "runs/a", "train.rounds=2")
    assert (code, "expected more than the 3 rounds that runs/a has finished" in err) == (2, True)


def test_a_comparison_takes_a_run_that_ended_by_itself_and_none_that_was_changed(place):
    words = {"train.rounds": 2, "train.target": 0.01, "train.selection": "last"}
    assert fh.compare("tiny.yaml", words, methods="gd-hla", seeds=[0], out="cmp", baselines=False) is not None
    assert fh.load_run("cmp/runs/gd-hla-seed0").summary.rounds == 1
    assert fh.compare("tiny.yaml", words, methods="gd-hla", seeds=[0], out="cmp", baselines=False) is not None
    fh.resume("cmp/runs/gd-hla-seed0", {"train.rounds": "+1", "train.target": None})
    with pytest.raises(
        fh.RunFolderError, match=r"to be a run of one configuration; it was resumed with train\.rounds=3"
    ):
        fh.compare(
            "tiny.yaml",
            {"train.rounds": 3, "train.selection": "last"},
            methods="gd-hla",
            seeds=[0],
            out="cmp",
            baselines=False,
        )
