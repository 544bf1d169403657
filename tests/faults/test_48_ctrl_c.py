"""Ctrl-C once: the round is abandoned, all before it saved, exit 130. Twice: at once; what was saved before is good."""

import json
import signal
import sys
import time

import psutil
import pytest

from fedhello.runs.interrupts import Interrupts


@pytest.fixture(autouse=True)
def interruptible():
    """A process that was started in the background ignores Ctrl-C from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


WORDS = ("run.name=r", "train.rounds=10", "train.measure_memory=false")


def start(place, processes, until):
    rounds = place / "runs" / "r" / "rounds.jsonl"
    pid = processes.start(place, "run", "tiny.yaml", *WORDS, "run.checkpoint_every=4")
    until(lambda: rounds.exists() and len(rounds.read_text().splitlines()) >= 2)
    return pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once(place, processes, until, undisturbed, outcome, number):
    pid = start(place, processes, until)
    assert psutil.Process(pid).children(recursive=True) == []
    assert processes.kill(pid, number) == 130
    run = place / "runs" / "r"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 2 <= summary["rounds"] == len((run / "rounds.jsonl").read_text().splitlines())
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    newest = max(file.name for file in (run / "checkpoints").iterdir())
    assert newest == f"checkpoint-{summary['rounds']:06}.safetensors"  # although it was not yet due
    assert "resume with: fedhello resume runs/r\n" in (place / "out").read_text()
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(run) == undisturbed(*WORDS)


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.05])
def test_twice(place, processes, until, undisturbed, outcome, pause):
    pid = start(place, processes, until)
    psutil.Process(pid).send_signal(signal.SIGINT)
    time.sleep(pause)
    assert processes.kill(pid, signal.SIGINT) == 130
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(place / "runs" / "r") == undisturbed(*WORDS)


def test_quiet_runs_say_how_to_go_on_too(place, processes, until):
    rounds = place / "runs" / "r" / "rounds.jsonl"
    pid = processes.start(place, "run", "tiny.yaml", *WORDS, "--json")
    until(lambda: rounds.exists() and rounds.read_text())
    assert processes.kill(pid, signal.SIGINT) == 130
    assert (place / "err").read_text().endswith("interrupted; resume with: fedhello resume runs/r\n")
    assert json.loads((place / "out").read_text())["status"] == "interrupted"


def test_the_first_waits_for_what_is_being_written():
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.held_back():
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]


def test_the_second_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        done.append("written")
    assert done == []


def test_the_second_comes_at_once_after_the_first_was_raised():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with interrupts.held_back():  # what has been raised is not raised again
            pass
        with pytest.raises(KeyboardInterrupt), interrupts.held_back():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it waited")


def test_handlers_come_back_and_what_is_ignored_stays_ignored():
    before = signal.getsignal(signal.SIGINT)
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) != before
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGTERM, ignored)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_clients_that_train_in_other_processes_end_with_the_run(place, processes, until, undisturbed, outcome, number):
    seen = set()

    def trains():
        seen.update(psutil.Process(pid).children(recursive=True))
        return len(seen) > 4 and psutil.Process(pid).children()

    pid = processes.start(place, "run", "tiny.yaml", *WORDS, "run.workers=2")
    until(trains)
    processes.kill(pid, number)
    until(lambda: not any(child.is_running() for child in seen))
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(place / "runs" / "r") == undisturbed(*WORDS)
