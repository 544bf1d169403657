"""The watching of the SuperLink, on a link in memory; with real processes: ``tests/faults/test_52``."""

from contextlib import contextmanager

import pytest

from fedhello.errors import EngineError
from fedhello.network.messages import Failure
from fedhello.network.revival import MOST_RESTARTS, LastingLink


class Process:
    """A SuperLink that ends when told to; each start has nodes of its own, which answer at once."""

    def __init__(self):
        self.starts, self.how, self.open, self.sent = 1, None, [], []

    def ended(self):
        return self.how

    def restart(self):
        assert self.how is not None and not self.open, "the old link is closed before a new process starts"
        self.starts, self.how = self.starts + 1, None

    @contextmanager
    def connect(self):
        link = Link(self)
        self.open.append(link)
        try:
            yield link
        finally:
            self.open.remove(link)


class Link:
    def __init__(self, process):
        self.process, self.number = process, process.starts

    def _alive(self):
        if self.process.how is not None or self.number != self.process.starts:
            raise ConnectionError("refused")

    def nodes(self):
        self._alive()
        return frozenset({10 * self.number, 10 * self.number + 1})

    def send(self, node, kind, fields, group=""):
        self._alive()
        self.process.sent.append((node, kind))
        return f"{self.number}/{len(self.process.sent)}"

    def reply(self, message_id):
        self._alive()
        return {"answer": message_id}

    def forget(self, message_id):
        self._alive()


@pytest.fixture
def world():
    process, notes = Process(), []
    with LastingLink(process, process.connect, notes.append) as link:
        yield process, link, notes
    assert process.open == []


def test_a_superlink_that_runs_is_left_alone(world):
    process, link, notes = world
    assert link.nodes() == {10, 11}
    message = link.send(10, "train", {})
    assert link.reply(message) == {"answer": message}
    link.forget(link.send(11, "train", {}))
    assert (process.starts, notes) == (1, [])


@pytest.mark.parametrize("during", [True, False], ids=["while it is called", "before"])
@pytest.mark.parametrize("call", ["nodes", "send", "reply", "forget"])
def test_one_that_ends_is_started_again_said_once_and_what_was_on_its_way_is_lost(call, during, world):
    process, link, notes = world
    link.nodes()
    message = link.send(10, "train", {})
    link_there = process.open[0]

    def die(*_):
        process.how = "by signal SIGKILL"
        raise ConnectionError("broken off")

    if during:
        setattr(link_there, call, die)
    else:
        process.how = "by signal SIGKILL"
    calls = {
        "nodes": link.nodes, "send": lambda: link.send(10, "train", {}), "reply": lambda: link.reply(message),
        "forget": lambda: link.forget(message),
    }  # fmt: skip
    found = calls[call]()
    assert process.starts == 2
    assert len(notes) == 1 and "ended (by signal SIGKILL) and was started again, for time 1 of at most 5" in notes[0]
    expected = {"nodes": frozenset() if during else {20, 21}, "send": "", "forget": None}
    assert isinstance(found, Failure) and found.reason == "lost" if call == "reply" else found == expected[call]
    assert isinstance(link.reply(message), Failure), "its message went with the old one"
    assert link.send(10, "train", {}) == "", "its nodes are gone"
    assert link.nodes() == {20, 21}
    again = link.send(20, "train", {})
    assert link.reply(again) == {"answer": again}


def test_any_other_error_is_raised(world):
    process, link, _ = world
    process.open[0].nodes = lambda: (_ for _ in ()).throw(EngineError("somebody has stopped the run"))
    with pytest.raises(EngineError, match="somebody has stopped"):
        link.nodes()
    assert process.starts == 1


def test_one_that_keeps_ending_is_an_error_that_says_how_to_go_on(world):
    process, link, notes = world
    for _ in range(MOST_RESTARTS):
        process.how = "with code 1"
        link.nodes()
    process.how = "by signal SIGSEGV"
    with pytest.raises(EngineError, match=r"it ended 6 times, at last by signal SIGSEGV.*start the server again"):
        link.nodes()
    assert (process.starts, len(notes)) == (1 + MOST_RESTARTS, MOST_RESTARTS)
    process.how = None
