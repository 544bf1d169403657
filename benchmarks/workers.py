"""Rounds of the demo with clients that train at the same time, beside one process with one thread and with several.

    python benchmarks/workers.py [--rounds 2] [--turns 2] [--count 2] [key=value …]

Each way plays the same rounds, in turn with the others: ``one`` process with one thread, ``threads``: one with several,
``parallel``: several with one thread each, where the server's part (scores, aggregation, heads) has several, and
``alike``: the same with one, whose adapter must be that of ``one``, bit for bit. ``training`` are wall seconds until
all clients have replied, ``rounds`` those of whole rounds, and ``cpu`` processor seconds of all processes, start and
evaluation included; the fastest turn counts. ``longest`` are the processor seconds of training, of the process that has
most to do and with all that the parent does: what wall seconds would be on cores that do nothing else.
``share_of_linear_cpu`` is made of these, so other work on the machine hardly changes it, and ``bound`` of the seconds
of each client alone: what their sizes allow where the largest begins first. Memory is the proportional set size (a page
that n processes share counts 1/n in each), summed over all processes, at its highest while rounds are played once more.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import Tensor

from fedhello.config.load import load_config
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Heads
from fedhello.engine.workers import Workers
from fedhello.runs.loop import rounds, start
from fedhello.runs.summarise import versions
from fedhello.session import Session
from fedhello.setup.prepare import prepare
from fedhello.types import Rejection, Task, Update


def main() -> None:
    """Read the arguments, play all ways in turn, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    count = arguments.count
    session = prepare(load_config(None, [f"train.rounds={arguments.rounds}", "run.workers=1", *arguments.overrides]))
    ways = {
        "one": (Workers(1, 1), 1),
        "parallel": (Workers(count, 1), count),
        "threads": (Workers(1, count), count),
        "alike": (Workers(count, 1), 1),
    }
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    ends: dict[str, dict[str, Tensor]] = {}
    for _ in range(arguments.turns):
        for way, how in ways.items():
            turn, ends[way] = played(session, *how)
            found[way].append(turn)
    best = {way: min(turns, key=lambda turn: turn["training"]) for way, turns in found.items()}
    memory = {}
    for way in ("one", "parallel"):
        with highest_memory() as peak:
            played(session, *ways[way])
        memory[way] = peak[0]
    print(
        json.dumps(
            {
                "benchmark": "workers",
                "count": count,
                "rounds": arguments.rounds,
                "best": best,
                "turns": found,
                "share_of_linear": best["one"]["training"] / best["parallel"]["training"] / count,
                "share_of_linear_cpu": statistics.median(
                    one["longest"] / other["longest"] / count
                    for one, other in zip(found["one"], found["parallel"], strict=True)
                ),
                "bound": statistics.median(bound(turn["clients"], count) for turn in found["one"]),
                "against_threads": best["threads"]["training"] / best["parallel"]["training"],
                "rounds_against_threads": best["threads"]["rounds"] / best["parallel"]["rounds"],
                "as_one": all(torch.equal(value, ends["alike"][name]) for name, value in ends["one"].items()),
                "memory": memory,
                "versions": versions(),
            },
            indent=2,
        )
    )


def played(session: Session, workers: Workers, threads: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Play all rounds; return what they took, and the adapter after them."""
    assert isinstance(session.engine, LocalEngine)
    engine, waited, longest, clients = session.engine, 0.0, 0.0, list[list[float]]()

    def timed(tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        nonlocal waited, longest
        clients.append([])
        with processes() as children:
            begin, before = time.perf_counter(), time.process_time()
            for reply in LocalEngine.train(engine, tasks, heads):
                clients[-1].append(time.process_time() - before)
                waited += time.perf_counter() - begin
                yield reply
                begin, before = time.perf_counter(), time.process_time()
                longest += clients[-1][-1]
            waited += time.perf_counter() - begin
            longest += time.process_time() - before
        longest += max(children, default=0.0)

    engine.workers, engine.train = workers, timed  # type: ignore[method-assign]
    torch.set_num_threads(threads)
    state, seconds, before = start(session).state, 0.0, cpu()
    for after, record in rounds(session, state):
        state = after
        seconds += record.seconds
    turn = {"training": waited, "rounds": seconds, "cpu": cpu() - before, "longest": longest, "clients": clients}
    return turn, dict(state.adapter.tensors)


@contextmanager
def processes() -> Iterator[list[float]]:
    """Note the processor seconds of each process that ends inside the context, its beginning and end included."""
    found: list[float] = []
    join = multiprocessing.process.BaseProcess.join

    def joined(process: multiprocessing.process.BaseProcess, timeout: float | None = None) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        join(process, timeout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)

    with patch.object(multiprocessing.process.BaseProcess, "join", joined):
        yield found


def bound(rounds: list[list[float]], count: int) -> float:
    """Return the share of linear that clients of these processor seconds allow, the largest first."""
    longest = 0.0
    for clients in rounds:
        loads = [0.0] * count
        for seconds in sorted(clients, reverse=True):
            loads[loads.index(min(loads))] += seconds
        longest += max(loads)
    return sum(map(sum, rounds)) / count / longest


def cpu() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def highest_memory() -> Iterator[list[int]]:
    """Find the most memory of this process and its children together, five times per second."""
    peak, over, this = [0], threading.Event(), psutil.Process()

    def look() -> None:
        while not over.is_set():
            total = 0
            for process in (this, *this.children()):
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
                    continue
            peak[0] = max(peak[0], total)
            time.sleep(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
