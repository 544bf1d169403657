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
"""Seconds that a process gets to end in an orderly way."""


def spawn(
    module: str, arguments: Sequence[str], log: Path | None = None, home: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start ``python -m module arguments`` as a child that calls ``end_with_parent``.

    Args:
        module: The module.
        arguments: Its arguments.
        log: Gets what the child says; None leaves it on this process's standard error.
        home: Where Flower may leave its files; None is the user's choice.
    """
    environment = os.environ if home is None else {**os.environ, "FLWR_HOME": str(home)}
    command = [sys.executable, "-m", module, *arguments]
    if log is None:
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    with log.open("ab") as file:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment)


def end_with_parent() -> None:
    """End this process in an orderly way when its standard input closes, and by force if that takes too long."""
    threading.Thread(target=_wait_for_the_end, name="end-with-parent", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 1):  # the pipe of standard input; the parent writes nothing
        pass
    threading.Timer(GRACE, os._exit, [1]).start()
    os.kill(os.getpid(), signal.SIGTERM)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child in an orderly way, by force if that takes too long, and reap it."""
    if child.stdin is not None:
        child.stdin.close()
    child.terminate()
    try:
        child.wait(2 * GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
