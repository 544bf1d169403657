"""What a run does right now: put together from what the engine tells, and told now and then."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from handmade import SETTINGS, begun, played, session

from fedhello.errors import CallbackError
from fedhello.runs.callbacks import Callback
from fedhello.runs.folder import RunFolder
from fedhello.runs.observer import BURST, PERIOD, RunObserver, StatusFile
from fedhello.runs.runner import run_session
from fedhello.runs.status import BestScore, read_status
from fedhello.state import RunState
from fedhello.types import Adapter


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Heard(Callback):
    def __init__(self):
        self.told = []

    def on_progress(self, status):
        self.told.append(status)


ROSTER = tuple(SimpleNamespace(client=k, facts={"name": f"site-{k}"} if k else None) for k in range(3))


@pytest.fixture
def watched(tmp_path):
    clock, heard = Clock(), Heard()

    def build(**changes):
        there = session(roster=ROSTER, **changes)
        return RunObserver(there, tmp_path, [heard], clock), clock, heard

    return build


def test_what_clients_do_and_how_long_it_takes(watched):
    observer, clock, _ = watched()
    observer.begin(begun(validation=0.5))
    observer.on_attempt(0, 1)
    observer.on_asked(0)
    observer.on_asked(2)
    assert observer.status().seconds_left is None
    observer.on_phase("training")
    observer.on_step(0, 0, 60)
    clock.now += 10
    observer.on_step(0, 30, 60)
    found = observer.status()
    assert (found.phase, found.round, found.attempt, found.rounds) == ("training", 0, 1, SETTINGS.rounds)
    assert [(c.client, c.name, c.tier, c.phase, c.step, c.steps, c.since) for c in found.clients] == [
        (0, None, 0, "training", 30, 60, 1000.0), (2, "site-2", 1, "waiting", 0, 0, 1000.0),
    ]  # fmt: skip
    # A quarter of this round's work took 10 s, so the round takes 40, and 4 rounds 160.
    assert found.seconds_left == pytest.approx(150)
    observer.on_client(0, "sent")
    observer.on_client(2, "late")
    assert [(c.phase, c.since) for c in observer.status().clients] == [("sent", 1010.0), ("late", 1010.0)]
    observer.add(played(0))  # 2.25 s, with its evaluation
    observer.on_attempt(1, 0)
    clock.now += 1
    assert observer.status().seconds_left == pytest.approx(3 * 2.25 - 1)
    assert observer.status().best == BestScore(0.5, 0)
    observer.add(played(1, validation=0.75))
    observer.add(played(2, validation=0.9, failed="too few"))
    assert observer.status().best == BestScore(0.75, 2)


def test_clients_of_earlier_messages_and_of_private_runs_are_not_shown(watched):
    observer, *_ = watched(private=object())
    observer.on_attempt(0, 0)
    observer.on_asked(1)
    observer.on_step(1, 1, 2)
    observer.on_client(1, "sent")
    assert observer.status().clients == ()


def test_steps_are_told_a_few_times_a_second_and_phases_at_once(watched):
    observer, clock, heard = watched()
    observer.on_asked(0)
    observer.on_phase("training")
    assert [one.phase for one in heard.told] == ["training"]
    for step in range(1000):  # 10 s of steps
        clock.now += 0.01
        observer.on_step(0, step, 1000)
    assert 0.9 * 10 / PERIOD <= len(heard.told) <= 10 / PERIOD + 1
    before = len(heard.told)
    for n in range(100):
        observer.on_phase(f"phase {n}")
    assert len(heard.told) - before == BURST
    observer.on_connected({1: "site-1"})
    clock.now += 1
    observer.on_connected({})
    assert heard.told[-1].connected[0].name == "site-1"
    assert heard.told[-1].connected[0].last_seen == heard.told[-1].updated - 1
    observer.end()
    assert heard.told[-1].phase == "ended"


def test_where_telling_takes_long_it_is_told_less_often(watched):
    observer, clock, heard = watched()
    observer._callbacks.append(SimpleNamespace(on_progress=lambda status: setattr(clock, "now", clock.now + 0.05)))
    for step in range(10_000):  # 100 s of steps
        clock.now += 0.01
        observer.on_step(0, step, 10_000)
    assert 18 <= len(heard.told) <= 21


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path, watched, caplog):
    observer, *_ = watched()
    missing = StatusFile(tmp_path / "missing")
    missing.on_progress(observer.status())
    (tmp_path / ".status.json").mkdir()
    full = StatusFile(tmp_path)
    for _ in range(2):
        full.on_progress(observer.status())
    assert caplog.text.count("nobody can watch this run") == 1


def test_a_run_tells_what_it_does_and_leaves_that_it_has_ended(prepared, tmp_path):
    heard, folder = Heard(), RunFolder(tmp_path / "mine")
    there = prepared("train.rounds=2")
    run_session(there, folder, [heard])
    assert {"heads", "training", "ended"} <= {one.phase for one in heard.told}
    last = read_status(folder.path)
    assert (last.phase, last.round, last.rounds, last.clients, last.is_alive) == ("ended", 2, 2, (), True)
    assert last.best.validation == max(r.validation.accuracy for r in folder.rounds()) or last.best.round == 0


def test_an_error_of_who_watches_is_no_fault_of_a_client(prepared, tmp_path):
    class Breaks(Callback):
        def on_progress(self, status):
            if status.clients:
                raise ValueError("boom")

    folder = RunFolder(tmp_path / "mine")
    with pytest.raises(CallbackError, match="the callback Breaks failed in on_progress: ValueError: boom"):
        run_session(prepared("train.rounds=2"), folder, [Breaks()])
    (first,) = folder.records()
    assert first.report.rejections == () and first.report.failed is None


def test_a_resumed_run_knows_its_best(watched):
    observer, *_ = watched()
    start = replace(begun(), state=RunState(2, Adapter({}, {})), records=(played(0, validation=0.8), played(1)))
    observer.begin(start)
    assert (observer.status().best, observer.status().round) == (BestScore(0.8, 1), 2)
