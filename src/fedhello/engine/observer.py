"""What an engine tells while a round is under way, to whoever watches; nothing in a run depends on it."""

from collections.abc import Mapping
from mmap import mmap
from struct import Struct
from typing import Literal

from fedhello.types import Rejection, Update

ClientPhase = Literal["waiting", "training", "sent", "late", "lost", "rejected"]
"""What a client of a round does: before training, while it trains, and what came of it."""


class Observer:
    """Is told what happens within a round; does nothing. A method is called often, so it must be quick and not fail."""

    def on_attempt(self, round: int, attempt: int) -> None:
        """An attempt at a round begins."""

    def on_asked(self, client: int) -> None:
        """A client trains in this round; told of all before the first begins."""

    def on_phase(self, phase: str) -> None:
        """The run is about to do something else; see ``fedhello.runs.status.Status``."""

    def on_client(self, client: int, phase: ClientPhase) -> None:
        """A client of the round does something else."""

    def on_step(self, client: int, step: int, steps: int) -> None:
        """A client has done a number of its steps of training, of all in this round."""

    def on_connected(self, names: Mapping[int, str]) -> None:
        """These clients of a server are connected: client → its name."""


NOBODY = Observer()
"""Nobody watches."""


def phase_after(reply: Update | Rejection) -> ClientPhase:
    """Return what a client has come to with its reply."""
    if isinstance(reply, Update):
        return "sent"
    return "late" if reply.reason == "late" else "lost" if reply.reason == "lost" else "rejected"


_PAIR = Struct("<II")


class StepBoard(Observer):
    """Is told in processes that begin as copies of this one, and tells here, by memory that all of them share.

    Args:
        places: Number of clients that it has room for.
    """

    def __init__(self, places: int) -> None:
        self._memory = mmap(-1, _PAIR.size * max(places, 1))
        self._place: dict[int, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}

    def add(self, client: int) -> None:
        """Give a client its place; before the copies are made."""
        self._place[client] = _PAIR.size * len(self._place)

    def on_step(self, client: int, step: int, steps: int) -> None:
        """Write how many of its steps a client has done."""
        _PAIR.pack_into(self._memory, self._place[client], step, steps)

    def tell(self, observer: Observer) -> None:
        """Tell what has changed since the last time."""
        for client, place in self._place.items():
            found = _PAIR.unpack_from(self._memory, place)
            if found != self._seen.get(client, (0, 0)):
                self._seen[client] = found
                observer.on_step(client, *found)
