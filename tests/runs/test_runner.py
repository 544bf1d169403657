"""A session is played to its end, whatever ends it: who is told, what is kept, and how it goes on."""

import contextlib
from dataclasses import replace

import pytest

import fedhello as fh
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.progress import restore_progress
from fedhello.runs.runner import run_session, warn
from fedhello.session import StopSettings

ROUNDS = 3


@pytest.fixture(scope="module")
def session(workplace):
    with contextlib.chdir(workplace):
        words = {"model.head": "aggregate", "method.name": "rgd-hla", "data.proxy": 0, "train.measure_memory": False}
        return fh.prepare("tiny.yaml", {**words, "train.rounds": ROUNDS})


@pytest.fixture(scope="module")
def undisturbed(session, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("undisturbed") / "r")
    run_session(session, folder)
    return adapter(folder)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "r")


def adapter(folder):
    return (folder.adapter / "adapter_model.safetensors").read_bytes()


def gone_on(session, folder):
    """Return the adapter that a run leads to which goes on from its last checkpoint."""
    with folder.locked():
        assert run_session(session, folder, resumed=restore_progress(session, folder, pytest.fail)).status == "finished"
    return adapter(folder)


class Watching(fh.Callback):
    """Writes down what it is told, and does something else beside."""

    def __init__(self, name, seen, **does):
        self.name, self.seen, self.does = name, seen, does

    def _told(self, method, *more):
        self.seen.append((self.name, method, *more))
        return self.does.get(method, lambda *_: None)(*more)

    def on_start(self, session, start):
        return self._told("start", start.state.round)

    def on_round(self, state, record):
        return self._told("round", state.round)

    def on_end(self, summary):
        return self._told("end", summary.status)


def raising(error, at=None):
    def act(*more):
        if at is None or at in more:
            raise error

    return act


def test_callbacks_are_told_in_their_order_and_of_the_end_the_other_way_round(session, folder, undisturbed):
    seen = []
    summary = run_session(session, folder, [Watching(name, seen) for name in "ab"])
    rounds = [(name, "round", t) for t in (1, 2, 3) for name in "ab"]
    assert seen == [("a", "start", 0), ("b", "start", 0), *rounds, ("b", "end", "finished"), ("a", "end", "finished")]
    assert (summary.status, summary.rounds, summary.error) == ("finished", ROUNDS, None)
    assert folder.summary() == summary
    assert adapter(folder) == undisturbed, "a session can be played again"


@pytest.mark.parametrize(("last", "status"), [(1, "stopped"), (ROUNDS, "finished")])
def test_a_callback_may_end_it_and_in_the_last_round_that_is_an_end(session, folder, undisturbed, last, status):
    seen = []
    stop = Watching("stop", seen, round=lambda t: t == last)
    after = Watching("after", seen)
    summary = run_session(session, folder, [stop, after])
    assert (summary.status, summary.rounds) == (status, last)
    assert ("after", "round", last) in seen, "the others are told of that round, too"
    said = f"stopped after round 1 of {ROUNDS} by Watching"
    assert (said in summary.notes) == (status == "stopped")
    if status == "stopped":
        assert gone_on(session, folder) == undisturbed


@pytest.mark.parametrize("keys", [{"target": 0.01}, {"stop": StopSettings(1, 1.0)}])
def test_a_run_stops_by_its_own_settings_and_stays_there_until_they_change(session, folder, undisturbed, keys):
    stopping = replace(session, settings=replace(session.settings, **keys))
    summary = run_session(stopping, folder)
    (key,) = keys
    assert (summary.status, summary.rounds) == ("stopped", 1)
    assert summary.stopped.startswith(f"stopped after round 1 of {ROUNDS} by train.{key}: ")
    assert summary.stopped in summary.notes
    with folder.locked():
        again = run_session(stopping, folder, resumed=restore_progress(stopping, folder, pytest.fail))
    assert (again.status, again.rounds, again.stopped) == ("stopped", 1, summary.stopped)
    assert len(folder.rounds()) == 1
    assert gone_on(session, folder) == undisturbed


def test_rounds_that_are_not_scored_do_not_count_for_a_stop(session, folder):
    settings = replace(session.settings, stop=StopSettings(1, 1.0), evaluate_every=2)
    summary = run_session(replace(session, settings=settings), folder)
    assert (summary.status, summary.rounds) == ("stopped", 2)


def test_an_interrupt_keeps_the_finished_rounds_and_the_run_goes_on(session, folder, undisturbed):
    summary = run_session(session, folder, [Watching("a", [], round=raising(KeyboardInterrupt(), 2))])
    assert (summary.status, summary.rounds, len(folder.rounds())) == ("interrupted", 2, 2)
    assert Checkpoints(folder.checkpoints).latest(pytest.fail).lines == 2
    assert folder.adapter.is_dir()
    assert gone_on(session, folder) == undisturbed


def test_a_round_that_fails_keeps_the_rounds_before_it(session, folder, undisturbed, monkeypatch):
    real = session.engine.train

    def train(tasks, heads):
        some = list(tasks)
        if some[0].round == 2:
            raise MemoryError("too much")
        return real(some, heads)

    monkeypatch.setattr(session.engine, "train", train)
    seen = []
    with pytest.raises(MemoryError, match="too much"):
        run_session(session, folder, [Watching("a", seen)])
    assert seen[-1] == ("a", "end", "failed")
    assert (folder.summary().status, folder.summary().error) == ("failed", "MemoryError: too much")
    assert len(folder.rounds()) == folder.summary().rounds == 2
    monkeypatch.undo()
    assert gone_on(session, folder) == undisturbed


@pytest.mark.parametrize(
    ("method", "error", "rounds"),
    [
        ("start", ZeroDivisionError("no such number"), 0),
        ("round", fh.RunFolderError("expected a folder; x is none"), 1),  # an error of ours is the callback's, too
        ("end", fh.CallbackError("the callback Inner failed"), ROUNDS),
    ],
)
def test_a_callback_that_raises_ends_the_run_with_its_name(session, folder, undisturbed, method, error, rounds):
    seen = []
    broken, other = Watching("broken", seen, **{method: raising(error)}), Watching("other", seen)
    said = rf"the callback Watching failed in on_{method}: {type(error).__name__}: {error}"
    with pytest.raises(fh.CallbackError, match=said) as found:
        run_session(session, folder, [other, broken])
    assert found.value.__cause__ is error
    assert seen[-1] == ("other", "end", "finished" if method == "end" else "failed")
    assert len(folder.rounds()) == folder.summary().rounds == rounds
    assert gone_on(session, folder) == undisturbed


def test_of_two_errors_at_the_end_the_first_counts_and_a_failed_round_before_both(session, folder, monkeypatch):
    def fail(*_):
        raise MemoryError("too much")

    late = [Watching(name, [], end=raising(ValueError(name))) for name in "ab"]
    with pytest.raises(fh.CallbackError, match="ValueError: b"):
        run_session(session, folder, late)
    monkeypatch.setattr(session.engine, "train", fail)
    with pytest.raises(MemoryError):
        run_session(session, RunFolder(folder.path.with_name("other")), late)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3])])
def test_checkpoints_are_saved_as_often_as_asked_and_always_at_the_end(session, folder, monkeypatch, every, expected):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, checkpoint: saved.append(checkpoint.lines))
    run_session(replace(session, settings=replace(session.settings, checkpoint_every=every)), folder)
    assert saved == expected


def test_where_the_last_checkpoint_cannot_be_written_the_run_fails_and_is_summed_up(session, folder, monkeypatch):
    real = Checkpoints.save

    def save(self, checkpoint):
        if checkpoint.lines == ROUNDS:
            raise fh.RunFolderError("expected to write; the disk is full")
        real(self, checkpoint)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(fh.RunFolderError, match="the disk is full"):
        run_session(session, folder)
    assert folder.summary().status == "failed"
    assert folder.summary().rounds == ROUNDS


def test_a_folder_that_is_there_is_left_as_it_is(session, folder):
    folder.path.mkdir()
    with pytest.raises(fh.RunFolderError, match="expected a new folder"):
        run_session(session, folder)
    assert list(folder.path.iterdir()) == []


def test_a_warning_is_logged_in_the_folder_and_for_the_program(folder, caplog):
    folder.path.mkdir()
    warn(folder, "mind the gap")
    assert (folder.path / "log.txt").read_text() == "note: mind the gap\n"
    assert caplog.messages == ["mind the gap"]
