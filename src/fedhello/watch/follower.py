"""Follows the folder of a run: what its page shows, and what happens right now.

Nothing is told by the run: its files are looked at, a few times a second. So a run is not slowed by those who watch it,
and a run on a server, one that was started without a page, or one that has ended, can be watched as well.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fedhello.errors import FedhelloError
from fedhello.runs.status import Status, read_status

LOOK = 0.25
"""Seconds between two looks into the folder."""

PING = 1.5
"""Seconds after which a connection is used at least: the second use after its reader has left fails, and frees it."""

SHOWN = ("config.yaml", "clients.json", "clients.npz", "rounds.jsonl", "plan.json", "confusion.json", "summary.json")
"""Files that the page shows; where one changes, the page does."""


class Page(Protocol):
    """A page; see ``fedhello.report.run_page.RunPage``."""

    def refresh(self) -> bool:
        """Read what is new."""
        ...

    def html(self, live: bool = False) -> str:
        """Return the page."""
        ...

    def main(self, live: bool = False) -> str:
        """Return its content."""
        ...


class Follower:
    """Follows a run. All methods can be called by several threads.

    Args:
        folder: The run's folder, which need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changed = threading.Condition()
        self._page_lock = threading.Lock()
        self._page: Page | None = None
        self._made: dict[str, tuple[int, str]] = {}
        self._seen = self._look()
        self._version, self._status, self._said = 1, self._now(), ""
        self._followers, self._closed = 0, False

    @property
    def exists(self) -> bool:
        """Whether the run's folder is there."""
        return (self.folder / "config.yaml").is_file()

    @property
    def followers(self) -> int:
        """Number of readers of ``events``."""
        return self._followers

    def say(self, line: str) -> None:
        """Show a line as long as there is no folder: what the run does before its first round."""
        with self._changed:
            self._said, self._status = line, self._now(line)
            self._changed.notify_all()

    def run(self) -> None:
        """Look into the folder until ``close`` is called."""
        while not self._closed:
            with suppress(OSError):  # the folder may be closed to this user for a while, or on a disk that is gone
                self._see(self._look(), self._now(self._said))
            time.sleep(LOOK)

    def _see(self, seen: tuple[object, ...], status: str) -> None:
        if seen != self._seen or status != self._status:
            with self._changed:
                self._version += seen != self._seen
                self._seen, self._status = seen, status
                self._changed.notify_all()

    def close(self) -> None:
        """End ``run`` and all ``events``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def events(self) -> Iterator[str]:
        """Yield server-sent events until ``close``: the status first, and ``change``, so that nothing is missed."""
        version, status = 0, ""
        with self._changed:
            self._followers += 1
        try:
            yield "retry: 1000\n\n"
            while True:
                if version != self._version:
                    version = self._version
                    yield f"event: change\ndata: {version}\n\n"
                if status != self._status:
                    status = self._status
                    yield f"event: status\ndata: {status}\n\n"
                with self._changed:
                    if self._closed:
                        return
                    news = (version, status) != (self._version, self._status) or self._changed.wait(PING)
                if not news:
                    yield ": nothing new\n\n"
        finally:
            with self._changed:
                self._followers -= 1

    def html(self) -> str:
        """Return the whole page.

        Raises:
            FedhelloError: If the folder cannot be read.
        """
        return self._rendered("html")

    def main(self) -> str:
        """Return the content of the page.

        Raises:
            FedhelloError: If the folder cannot be read.
        """
        return self._rendered("main")

    def _rendered(self, what: str) -> str:
        """Make a part of the page, once for all who ask while nothing changes."""
        with self._page_lock:
            version = self._version
            known, text = self._made.get(what, (0, ""))
            if known != version:
                page, self._page = self._opened(), None
                page.refresh()
                text = page.html(live=True) if what == "html" else page.main(live=True)
                self._page = page  # one that failed may have read half of the folder
                self._made[what] = version, text
            return text

    def _opened(self) -> Page:
        if self._page is None:
            from fedhello.report.run_page import RunPage

            self._page = RunPage(self.folder)
        return self._page

    def _look(self) -> tuple[object, ...]:
        return tuple(_state(self.folder / name) for name in SHOWN)

    def _now(self, said: str = "") -> str:
        """Return what happens right now, as JSON."""
        if not self.exists:
            return json.dumps({"phase": "loading", "said": said})
        status = read_status(self.folder)
        if status is None:  # it has not begun yet, or is of a version that does not say what it does
            return json.dumps({"phase": "ended" if (self.folder / "summary.json").is_file() else "no word of it"})
        return json.dumps({**status.to_dict(), "alive": _is_going_on(status)})


def _is_going_on(status: Status) -> bool:
    """Whether a run goes on, as far as can be told: one on another machine is thought to."""
    return status.phase != "ended" and status.is_alive is not False


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def problem(error: Exception) -> str:
    """Return one line on why there is no page."""
    kind = "" if isinstance(error, FedhelloError) else f"{type(error).__name__}: "
    return f"this run cannot be shown: {kind}{' '.join(str(error).split())}"
