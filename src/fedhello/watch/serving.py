"""Serve the page of a run until it is enough: in this process, or in one of its own beside the run."""

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from fedhello.watch.follower import Follower
from fedhello.watch.server import PageServer, address_of, listening

FAREWELL = 3.0
"""Seconds that an open page has to fetch what came last, once the run has ended."""


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[PageServer]:
    """Serve the page of a run within the context.

    Args:
        folder: The run's folder, which need not exist yet.
        port: The port; 0 takes a free one.

    Raises:
        ConfigError: If the port is taken.
    """
    with _served(PageServer(Follower(folder), listening(port), new_token())) as server:
        yield server


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(32)


@contextmanager
def _served(server: PageServer) -> Iterator[PageServer]:
    targets = (server.follower.run, partial(server.serve_forever, poll_interval=0.1))
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        server.stop()
        for thread in threads:
            thread.join()
        server.server_close()


def serve_beside(folder: Path, descriptor: int, run: IO[str]) -> None:
    """Serve the page of a run in a process that the run started, until the run ends.

    Args:
        folder: The run's folder.
        descriptor: Of the socket that the run opened.
        run: The token, and lines on what the run does before it has a folder; closed when the run's process ends,
            however it does.
    """
    token = run.readline().strip()
    with _served(PageServer(Follower(folder), socket.socket(fileno=descriptor), token)) as server:
        for line in run:
            server.follower.say(line.strip())
        until = time.monotonic() + FAREWELL
        while server.follower.followers and time.monotonic() < until:
            time.sleep(0.1)


@contextmanager
def page_beside(folder: Path, note: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Serve the page of a run within the context, from a process of its own, which cannot slow or end the run.

    Args:
        folder: The folder that the run will have.
        note: Called with the page's address, at once.

    Yields:
        A function that shows a line on the page as long as the run has no folder.

    Raises:
        ConfigError: If there is no free port.
    """
    token = new_token()
    with listening() as opened:
        command = [sys.executable, "-m", "fedhello", "watch", str(folder), "--beside", str(opened.fileno())]
        # Ctrl-C in a terminal is for the run, which ends in order; the page follows it to its end.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[opened.fileno()],
            start_new_session=True,
        )
        note(f"watch this run: {address_of(opened, token)}")
    assert process.stdin is not None
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)  # the run does not wait for its page

    def tell(line: str) -> None:
        with suppress(OSError):
            os.write(descriptor, f"{' '.join(line.split())}\n".encode(errors="replace"))

    tell(token)
    try:
        yield tell
    finally:
        process.stdin.close()
        try:
            process.wait(FAREWELL + 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
