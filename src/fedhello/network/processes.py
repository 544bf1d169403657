"""Child processes that never outlive their parent, however it ends.

A child holds the reading end of a pipe as its standard input and ends itself when the pipe closes, which the operating
system sees to even when the parent is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

GRACE = 5.0
"""Seconds for a process to end in order before it is killed."""


def spawn(
    module: str, arguments: Sequence[str], log: Path | None = None, home: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start ``python -m module arguments`` as a child that calls ``end_with_parent``.

    Args:
        module: The module.
        arguments: Its arguments.
        log: File for the child's output; None uses this process's standard error.
        home: Folder for Flower's files; None keeps the user's setting.
    """
    environment = os.environ if home is None else {**os.environ, "FLWR_HOME": str(home)}
    command = [sys.executable, "-m", module, *arguments]
    if log is None:
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    with log.open("ab") as file:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment)


def end_with_parent() -> None:
    """End this process in order when its standard input closes, or kill it if that takes too long."""
    threading.Thread(target=_wait_for_the_end, name="end-with-parent", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 1):  # the pipe of standard input; the parent writes nothing
        pass
    threading.Timer(GRACE, os._exit, [1]).start()
    os.kill(os.getpid(), signal.SIGTERM)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child in order, or kill it if that takes too long, and reap it."""
    if child.stdin is not None:
        child.stdin.close()
    child.terminate()
    try:
        child.wait(2 * GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def how_it_ended(code: int) -> str:
    """Return how a process ended, from its return code."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
