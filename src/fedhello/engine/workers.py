"""Let clients train at the same time, in processes that begin as copies of this one.

A forked process shares the memory of the one it comes from until it writes to it. So the frozen weights, the data and
the tasks are there without being sent or copied. The processes of a round take its clients from one queue, and only
replies come back, as bytes in memory without a name. A process that ends early, whatever ended it, leaves one client
without a reply, and nothing else.
"""

import ctypes
import gc
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

AHEAD = 16
"""The most jobs per process that are known at once; their numbers must fit into a byte together."""

LOOK = 0.25
"""Seconds between two looks at what processes do."""

MOST = 255 // AHEAD
"""The most processes."""

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_BEGUN, _DONE, _FAILED = b"bdf"


@dataclass(frozen=True)
class Workers:
    """How many clients train at the same time, and how.

    Attributes:
        count: The most processes; 1 trains in this process, with as many threads as it has.
        threads: Threads of each process.
    """

    count: int = 1
    threads: int = 1


IN_TURN = Workers()
"""Clients train one after the other in this process."""


def can_fork() -> bool:
    """Whether this process can make copies of itself; a daemon of ``multiprocessing`` must have none."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def in_parallel(
    jobs: Iterable[tuple[T, float]],
    work: Callable[[T], bytes],
    workers: Workers,
    look: Callable[[], None] | None = None,
) -> Iterator[tuple[T, bytes | str]]:
    """Do jobs in other processes; yield each with its reply, or why there is none, in the order of the jobs.

    Of the jobs that are known, the largest begins first, which shortens the time in which the last one runs alone.
    Processes end with this iterator, and with the process that they come from.

    Args:
        jobs: Each with its size, in any unit.
        work: What to do; called in another process.
        workers: The most processes, and their threads.
        look: Called now and then while it is waited for a reply; None calls nobody.
    """
    coming, threads = iter(jobs), torch.get_num_threads()
    torch.set_num_threads(workers.threads)  # what is done with a reply shares the processor with the next jobs
    try:
        while some := list(islice(coming, AHEAD * workers.count)):
            crew = _Crew([item for item, _ in some], [size for _, size in some], work, workers.threads, look)
            try:
                crew.begin(workers.count)
                for number, (item, _) in enumerate(some):
                    yield item, crew.reply(number)
            finally:
                crew.end()
    finally:
        torch.set_num_threads(threads)


@dataclass
class _Worker:
    """A process.

    Attributes:
        process: The process.
        notices: Where it says which job it has begun, and how it ended.
        job: The number of the job that it has begun.
    """

    process: BaseProcess
    notices: Connection
    job: int | None = None


class _Crew(Generic[T]):
    """The processes that do some jobs."""

    def __init__(
        self,
        items: Sequence[T],
        sizes: Sequence[float],
        work: Callable[[T], bytes],
        threads: int,
        look: Callable[[], None] | None,
    ) -> None:
        self._items, self._work, self._threads, self._look = items, work, threads, look
        self._replies: dict[int, bytes | str] = {}
        self._memory = [os.memfd_create("reply") for _ in items]
        self._queue, end = os.pipe()
        order = sorted(enumerate(sizes), key=lambda one: -one[1])
        os.write(end, bytes(number for number, _ in order))
        os.close(end)
        self._waiting = len(items)
        self._why = ""
        self._left = (
            2 * len(items) + MOST
        )  # processes that may be begun, so that those that fail at once come to an end
        self._workers: list[_Worker] = []

    def begin(self, count: int) -> None:
        """Begin with at most so many processes."""
        for _ in range(min(count, len(self._items))):
            self._begin()

    def reply(self, number: int) -> bytes | str:
        """Wait for the reply of a job and return it; without one, why."""
        while number not in self._replies and self._workers:
            ready = wait([worker.notices for worker in self._workers], None if self._look is None else LOOK)
            for worker in [worker for worker in self._workers if worker.notices in ready]:
                self._hear(worker)
            if self._look is not None:
                self._look()
        return self._replies.pop(number, self._why)

    def end(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.notices.close()
        for end in (self._queue, *self._memory):
            os.close(end)

    def _begin(self) -> None:
        """Begin with one more process; where the system has none to give, those that there are do the jobs."""
        self._left -= 1
        hear, tell = multiprocessing.Pipe(duplex=False)
        how = (self._work, self._items, self._queue, self._memory, tell, self._threads, os.getpid())
        process = multiprocessing.get_context("fork").Process(target=_do, args=how, daemon=True)
        # A signal in between would be handled by the copy as well, or end this process and not the copy.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        try:
            with warnings.catch_warnings():
                # Python warns of locks that other threads may hold; the copy takes none of them, see ``Said``.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            self._workers.append(_Worker(process, hear))
        except OSError as error:
            hear.close()
            self._why = f"no process could be started for it ({error}); lower run.workers"
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        tell.close()

    def _hear(self, worker: _Worker) -> None:
        """Take one notice of a process."""
        try:
            kind, number = worker.notices.recv_bytes()
        except EOFError:
            self._ended(worker)
            return
        if kind == _BEGUN:
            worker.job, self._waiting = number, self._waiting - 1
            return
        with open(self._memory[number], "rb", closefd=False) as file:
            file.seek(0)
            found = file.read()
        self._replies[number], worker.job = found if kind == _DONE else found.decode(), None

    def _ended(self, worker: _Worker) -> None:
        """Replace a process that ended before all jobs were begun."""
        self._workers.remove(worker)
        worker.notices.close()
        worker.process.join()
        code = worker.process.exitcode or 0
        if code:
            how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
            self._why = f"its process was ended {how}; where memory is short, lower run.workers"
        if worker.job is not None:
            self._replies[worker.job] = self._why
        if self._waiting and code and self._left > 0:
            self._begin()


def _do(
    work: Callable[[T], bytes],
    items: Sequence[T],
    queue: int,
    memory: Sequence[int],
    notices: Connection,
    threads: int,
    parent: int,
) -> None:
    """Do jobs in this new process until the queue is empty, and end it."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    gc.freeze()  # a collection would write to all objects, and so copy their memory
    code = 1

    def do() -> None:
        nonlocal code
        torch.set_num_threads(threads)
        while taken := os.read(queue, 1):
            number = taken[0]
            notices.send_bytes(bytes([_BEGUN, number]))
            kind, reply = _done(work, items[number])
            with open(memory[number], "wb", closefd=False) as file:
                file.write(reply)
            notices.send_bytes(bytes([kind, number]))
        code = 0

    # A copy of the calling thread would wait for the threads that OpenMP started for it, which are not copied.
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()
    os._exit(code)  # without what other modules do at a process's end


def _done(work: Callable[[T], bytes], item: T) -> tuple[int, bytes]:
    try:
        return _DONE, work(item)
    except BaseException as error:
        return _FAILED, "".join(traceback.format_exception_only(error)).strip().encode()


@dataclass(eq=False)  # logging keeps handlers in sets
class Said(logging.Handler):
    """What a process logs and prints, to be said by the process that it comes from."""

    records: list[tuple[str, int, str]] = field(default_factory=list)
    out: str = ""
    err: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append((record.name, record.levelno, logging.Formatter().format(record)))

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect instead of writing: terminal and handlers belong to the parent, and their locks may be held."""
        for logger in map(logging.getLogger, logging.root.manager.loggerDict):
            logger.handlers, logger.propagate = [], True
        logging.root.handlers = [self]
        sys.stdout, sys.stderr = out, err = io.StringIO(), io.StringIO()
        yield
        self.out, self.err = out.getvalue(), err.getvalue()

    def say(self) -> None:
        """Log and print it."""
        for name, level, message in self.records:
            logging.getLogger(name).log(level, "%s", message)
        sys.stdout.write(self.out)
        sys.stderr.write(self.err)
