"""Handle Ctrl-C and SIGTERM, so that a run ends in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Turns Ctrl-C and SIGTERM into a KeyboardInterrupt; the first one can be delayed by ``held_back``.

    Only the main thread can handle signals; in other threads this does nothing. A signal that the process was started
    to ignore, as shells do for background jobs, stays ignored.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._heard = 0
        self._holding = False

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard += 1
        if self._heard > 1 or not self._holding:
            raise KeyboardInterrupt

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Delay the first signal until the end of the context; a second signal acts at once."""
        before, self._holding = self._heard, True
        try:
            yield
        finally:
            self._holding = False
        if self._heard > before:
            raise KeyboardInterrupt
