"""An output that cannot show a character, or is closed → the run goes on."""

import json
import os
import pty
import signal

import pytest

import fedhello as fh

WORDS = ("run", "tiny.yaml", "run.name=r", "train.measure_memory=false")


def finished(place):
    summary = json.loads((place / "runs" / "r" / "summary.json").read_text())
    return summary["status"], summary["rounds"]


FULL = "/dev/full"


@pytest.mark.parametrize("outputs", [{1: "broken"}, {1: None, 2: None}, {1: FULL, 2: FULL}], ids=str)
def test_a_run_whose_output_nobody_takes_goes_on_to_its_end(processes, place, outputs):
    code, _, err = processes.call(place, *WORDS, outputs=outputs)
    assert (code, finished(place)) == (0, ("finished", 2))
    assert "Traceback" not in err
    assert (place / "runs" / "r" / "adapter" / "adapter_model.safetensors").is_file()
    assert "finished after 2 rounds" in (place / "runs" / "r" / "log.txt").read_text()


def test_what_an_output_cannot_show_is_replaced(processes, place):
    code, out, err = processes.call(place, *WORDS, encoding="ascii")
    assert (code, finished(place), "Traceback" in err) == (0, ("finished", 2), False)
    assert out.startswith("loading the model, the data and the clients ...\n")
    assert "blocks ### " in out
    for command in (["plan", "tiny.yaml"], ["evaluate", "runs/r"], ["methods"]):
        code, _, err = processes.call(place, *command, encoding="latin-1")
        assert (code, "Traceback" in err) == (0, False)
    code, out, _ = processes.call(place, "predict", "runs/r", "Äpfel → 梨", encoding="latin-1")
    assert out.endswith("\tÄpfel -> ?\n")


def test_other_commands_end_in_order_and_say_that_a_disk_is_full(processes, place):
    said = "note: standard output cannot be written (No space left on device); no more is shown\n"
    assert processes.call(place, "methods", outputs={1: FULL})[::2] == (0, said)
    outputs = {1: "broken"}
    for command in (["plan", "tiny.yaml"], ["methods"], ["--help"], ["nonsense"], ["compare", "tiny.yaml", "--methods",
                     "head-only", "--seeds", "0", "--no-baselines", "train.rounds=1"]):  # fmt: skip
        code, _, err = processes.call(place, *command, outputs=outputs)
        assert (code, "Traceback" in err) == (2 if command == ["nonsense"] else 0, False), command
    assert (place / "runs" / "comparison" / "comparison.json").is_file()


def test_a_terminal_that_vanishes_ends_nothing(processes, place, until):
    """Its live table fails in a thread of its own; the hang-up is no interruption."""
    rounds = place / "runs" / "r" / "rounds.jsonl"
    master, slave = pty.openpty()
    words = (*WORDS, "train.rounds=8")
    pid = processes.start(place, *words, outputs={1: os.ttyname(slave), 2: os.ttyname(slave)})
    until(lambda: os.read(master, 4096))
    until(lambda: rounds.exists() and rounds.read_text())
    os.close(slave)
    os.close(master)
    os.kill(pid, signal.SIGHUP)
    assert processes.wait(pid) == 0
    assert finished(place) == ("finished", 8)


class Torn:
    """An output of a program that breaks after some lines."""

    encoding = "utf-8"

    def __init__(self, error, lines=2):
        self.error, self.left = error, lines

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error

    def flush(self):
        """Do nothing."""


@pytest.mark.parametrize(
    ("terminal", "error"),
    [(False, BrokenPipeError(32, "Broken pipe")), (True, OSError(28, "full")),
     (True, UnicodeEncodeError("ascii", "…", 0, 1, "no"))],
)  # fmt: skip
def test_a_console_of_a_program_that_breaks_ends_no_run(place, monkeypatch, error, terminal):
    from rich.console import Console

    monkeypatch.chdir(place)
    console = Console(file=Torn(error), force_terminal=terminal)
    run = fh.run("tiny.yaml", {"train.rounds": 1, "train.measure_memory": False}, console=console)
    assert run.summary.status == "finished"
