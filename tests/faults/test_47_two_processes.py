"""Two processes on one run: the second refuses; who has died does not count."""

import os
import re
import socket

import pytest

from fedhello.errors import RunFolderError
from fedhello.runs.folder import RunFolder

WORDS = ("run.name=r", "train.rounds=200", "train.measure_memory=false", "train.lr_schedule=constant")


def test_the_second_refuses_and_the_first_goes_on(place, processes, until):
    rounds = place / "runs" / "r" / "rounds.jsonl"
    first = processes.start(place, "run", "tiny.yaml", *WORDS)
    until(lambda: rounds.exists() and rounds.read_text())
    second = place / "second"
    second.mkdir()
    code, out, err = processes.call(second, "resume", "../runs/r", "--json")
    assert (code, out) == (5, "")
    assert err == (
        f"error: expected nobody else to write to ../runs/r; process {first} on {socket.gethostname()} does. "
        "Wait until it has ended, or end it.\n"
    )
    done = len(rounds.read_text().splitlines())
    until(lambda: len(rounds.read_text().splitlines()) > done)
    assert processes.kill(first) == -9
    # Who is named in the lock is dead now.
    assert str(first) in (place / "runs" / "r" / ".lock").read_text()
    third = processes.start(place, "resume", "runs/r")
    until(lambda: "resumed after round" in (place / "runs" / "r" / "log.txt").read_text())
    assert re.fullmatch(f"process {third} on .*\n", (place / "runs" / "r" / ".lock").read_text())
    processes.kill(third)


def test_a_process_may_ask_for_its_own_lock_again(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked():
        with folder.locked():
            pass
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
        child = os.fork()
        if not child:
            try:
                with RunFolder(tmp_path).locked():
                    os._exit(1)
            except RunFolderError:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / ".lock").read_text() == ""
    with RunFolder(tmp_path).locked():
        pass


def test_an_error_inside_is_not_one_of_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError), RunFolder(tmp_path).locked():
        raise FileNotFoundError


def test_two_comparisons_in_one_folder(place, processes, until):
    """The second waits for nothing, and what the first has begun goes on."""
    words = ("compare", "tiny.yaml", "--methods", "gd-hla", "--seeds", "0", "--no-baselines", "--out")
    more = ("train.rounds=200", "train.measure_memory=false", "train.lr_schedule=constant")
    first = processes.start(place, *words, "cmp", *more)
    rounds = place / "cmp" / "runs" / "gd-hla-seed0" / "rounds.jsonl"
    until(lambda: rounds.exists() and rounds.read_text())
    second = place / "second"
    second.mkdir()
    (second / "tiny").symlink_to(place / "tiny")
    (second / "texts.csv").symlink_to(place / "texts.csv")
    (second / "tiny.yaml").symlink_to(place / "tiny.yaml")
    code, _, err = processes.call(second, *words, "../cmp", "train.measure_memory=false")
    who = f"process {first} on {socket.gethostname()}"
    said = f"error: expected nobody else to write to ../cmp; {who} does. Wait until it has ended, or end it.\n"
    assert (code, err) == (5, said)
    done = len(rounds.read_text().splitlines())
    until(lambda: len(rounds.read_text().splitlines()) > done)
    assert processes.kill(first) == -9


def test_a_comparison_leaves_a_run_alone_that_somebody_writes(place, call):
    run = place / "cmp" / "runs" / "gd-hla-seed0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    with RunFolder(run).locked():
        code, _, err = call(place, "compare", "tiny.yaml", "--methods", "gd-hla", "--seeds", "0", "--out", "cmp")
        assert code == 5
        assert "expected nobody else to write to cmp/runs/gd-hla-seed0" in err
        assert (run / "config.yaml").exists()
