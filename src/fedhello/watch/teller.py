"""Tells the page of a run, which reads the run's folder, what the run does before it has one."""

from collections.abc import Callable

from fedhello.runs.callbacks import Callback
from fedhello.runs.loop import RunStart
from fedhello.runs.now import PHASES
from fedhello.runs.status import Status
from fedhello.session import Session


class PageTeller(Callback):
    """Tells a page what a run does before it has a folder.

    Args:
        tell: Called with a line.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._begun = False
        self._here = (-1, -1)

    def on_loading(self, what: str) -> None:
        """Tell what is loaded."""
        self._tell(f"loading {what} …")

    def on_waiting(self, connected: int, wanted: int) -> None:
        """Tell how many clients are here, if that has changed."""
        if self._here != (connected, wanted):
            self._here = connected, wanted
            self._tell(f"waiting for clients: {connected} of {wanted} are here …")

    def on_start(self, session: Session, start: RunStart) -> None:
        """Tell no more: the folder is there."""
        self._begun = True

    def on_progress(self, status: Status) -> None:
        """Tell how the start is made."""
        if not self._begun:
            self._tell(f"{PHASES.get(status.phase, status.phase)} …")
