"""Processes that do jobs: order, look-ahead, what ends them, and what they say."""

import ast
import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from fedhello.engine.workers import AHEAD, IN_TURN, MOST, Said, Workers, can_fork, in_parallel
from fedhello.privacy.noise import gaussian

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")

TWO = Workers(2)


def done(items, work, workers=TWO):
    return list(in_parallel(((item, item) for item in items), work, workers))


def test_replies_come_in_the_order_of_the_jobs_from_other_processes():
    items = range(2 * AHEAD + 3)  # more than are known at once
    found = done(items, lambda item: f"{item} {os.getpid()}".encode())
    assert [item for item, _ in found] == list(items)
    assert [int(reply.split()[0]) for _, reply in found] == list(items)
    processes = {int(reply.split()[1]) for _, reply in found}
    assert os.getpid() not in processes and 2 <= len(processes) <= 4
    assert not multiprocessing.active_children()


def test_numbers_of_jobs_fit_into_a_byte():
    assert MOST * AHEAD <= 256
    assert IN_TURN.count == 1
    assert can_fork()


def test_the_largest_job_begins_first():
    jobs = [(k, size) for k, size in enumerate([1, 5, 3])]
    began = dict(in_parallel(jobs, lambda _: str(time.monotonic_ns()).encode(), Workers(1)))
    assert sorted(began, key=lambda k: int(began[k])) == [1, 2, 0]


def test_no_more_jobs_are_asked_for_than_are_done_soon():
    asked = itertools.count()
    replies = in_parallel(((next(asked), 1) for _ in range(10**6)), lambda item: b"", TWO)
    assert next(replies) == (0, b"")
    assert next(asked) <= 2 * AHEAD
    replies.close()
    assert not multiprocessing.active_children()


def test_a_large_reply_waits_for_nobody():
    replies = in_parallel(((k, 1) for k in range(2)), lambda k: bytes([k]) * 10**7, TWO)
    assert [reply == bytes([k]) * 10**7 for k, reply in replies] == [True, True]


def test_a_process_that_is_killed_is_the_loss_of_one_job():
    def work(item):
        if item in (1, 2, 5):
            os.kill(os.getpid(), signal.SIGKILL)
        return b"here"

    found = dict(done(range(8), work))
    gone = {item for item, reply in found.items() if isinstance(reply, str)}
    assert gone == {1, 2, 5}
    assert found[5] == "its process was ended by signal 9 (Killed); where memory is short, lower run.workers"


def test_a_process_that_is_killed_between_two_jobs_ends_nothing(monkeypatch):
    """The worst moment: its job is off the queue, and it has not said so."""
    parent, read = os.getpid(), os.read

    def killed(descriptor, size):
        found = read(descriptor, size)
        if os.getpid() != parent and found == b"\x00":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    monkeypatch.setattr(os, "read", killed)
    found = dict(done(range(4), lambda item: b"here"))
    assert [item for item, reply in found.items() if isinstance(reply, str)] == [0]
    assert found[0].startswith("its process was ended by signal 9")


def test_an_error_is_that_of_its_job():
    found = dict(done(range(3), lambda item: bytes([1 // item])))
    assert found == {0: "ZeroDivisionError: integer division or modulo by zero", 1: b"\x01", 2: b"\x00"}


def test_signals_of_the_terminal_end_no_process():
    def work(item):
        os.kill(os.getpid(), signal.SIGINT)
        return b"here"

    assert done([0, 1], work) == [(0, b"here"), (1, b"here")]


def test_processes_end_with_a_parent_that_is_killed():
    code = (
        "import os, time\n"
        "from fedhello.engine.workers import Workers, in_parallel\n"
        "def work(item):\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n    return b''\n"
        "list(in_parallel([(0, 1), (1, 1)], work, Workers(2)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    ended = time.monotonic() + 10
    while any(map(psutil.pid_exists, children)) and time.monotonic() < ended:
        time.sleep(0.01)
    assert not any(map(psutil.pid_exists, children))


def backward(_=None):
    torch.manual_seed(0)
    x = torch.randn(300, 300, requires_grad=True)
    torch.autograd.backward((x @ x).relu().sum() + x.exp().sum())
    return x.grad.numpy().tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_backward_passes_run_after_the_parent_has_used_its_threads(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        backward()  # starts OpenMP's threads, which a copy of this process lacks
        found = done(range(4), backward, Workers(2, threads))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(threads)
        assert {reply for _, reply in found} == {backward()}
    finally:
        torch.set_num_threads(before)


def test_this_process_takes_as_few_threads_meanwhile():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        replies = in_parallel([(0, 1), (1, 1)], lambda _: str(torch.get_num_threads()).encode(), Workers(2, 1))
        assert next(replies) == (0, b"1")
        assert torch.get_num_threads() == 1
        replies.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_noise_is_drawn_anew_in_each_process():
    found = done(range(4), lambda _: gaussian((4,), 1.0).numpy().tobytes())
    assert len({reply for _, reply in found}) == 4


def test_what_is_said_is_said_by_the_parent(capfd, caplog):
    logger = logging.getLogger("fedhello")

    def work(_):
        with (said := Said()).collected():
            logger.warning("of client %d", 3)
            print("printed")
            print("printed as an error", file=sys.stderr)
        return repr((said.records, said.out, said.err)).encode()

    ((_, reply),) = done([0], work)
    assert capfd.readouterr() == ("", "") and not caplog.records
    Said(*ast.literal_eval(reply.decode())).say()
    assert caplog.record_tuples == [("fedhello", logging.WARNING, "of client 3")]
    out, err = capfd.readouterr()
    assert out == "printed\n"
    assert err.endswith("printed as an error\n")  # after what handlers of other tests write of the log


def test_where_the_system_has_no_process_to_give_jobs_have_no_reply_and_are_told_why(monkeypatch):
    def none(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.get_context("fork").Process, "start", none)
    (_, why), (_, again) = done(range(2), lambda item: b"")
    assert why == again and "no process could be started for it" in why and "run.workers" in why


def test_processes_that_end_before_they_begin_a_job_come_to_an_end(monkeypatch):
    monkeypatch.setattr("fedhello.engine.workers._do", lambda *_: os._exit(3))
    found = done(range(3), lambda item: b"")
    assert all("with exit code 3" in why for _, why in found)
    assert not multiprocessing.active_children()


def test_it_is_looked_now_and_then_while_a_reply_is_waited_for(monkeypatch):
    monkeypatch.setattr("fedhello.engine.workers.LOOK", 0.05)
    looks = []
    jobs = [(0, 1)]
    replies = in_parallel(jobs, lambda _: time.sleep(0.5) or b"done", Workers(2), lambda: looks.append(1))
    assert list(replies) == [(0, b"done")]
    assert 3 <= len(looks) <= 12
