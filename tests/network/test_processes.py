import os
import signal
import socket
import sys
import time

import pytest

from fedhello.network import processes
from fedhello.network.processes import free_port, spawn, stop

LISTENS = """
import time
from fedhello.network.processes import end_with_parent

end_with_parent()
print("up", flush=True)
time.sleep(60)
"""

DEAF = """
import signal, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Start a module of some source, which says when it is up."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    started = []

    def start(source):
        (tmp_path / "child.py").write_text(source)
        started.append(spawn("child", [], log=tmp_path / "log"))
        end = time.monotonic() + 20
        while "up" not in (tmp_path / "log").read_text() and time.monotonic() < end:
            time.sleep(0.01)
        return started[-1]

    yield start
    for child in started:
        child.stdin.close()
        child.kill()
        child.wait()


def test_a_child_ends_when_its_parents_end_of_the_pipe_closes(module):
    child = module(LISTENS)
    assert child.poll() is None
    child.stdin.close()  # as the operating system does for a parent that is killed
    assert child.wait(10) == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_stopped_by_force(module, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.05)
    child = module(DEAF)
    stop(child)
    assert child.returncode == -signal.SIGKILL


def test_a_free_port_can_be_listened_on():
    with socket.socket() as found:
        found.bind(("127.0.0.1", free_port()))


def test_what_a_child_says_is_added_to_its_log(module, tmp_path):
    (tmp_path / "log").write_text("before\n")
    child = module("print('up', flush=True)\n")
    child.wait(20)
    assert (tmp_path / "log").read_text() == "before\nup\n"
