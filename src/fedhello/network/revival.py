"""A link that outlasts Flower's SuperLink: when that ends by itself, it is started again, and the run goes on.

What was on its way is lost, as if every client had been cut off for a moment: clients connect again by themselves, are
asked to join, and an attempt at a round in which too few answered is made again.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Protocol, TypeVar

from fedhello.errors import EngineError
from fedhello.network.messages import Failure, Fields, Link, Reply

MOST_RESTARTS = 5
"""How often the SuperLink of one server process is started again."""

T = TypeVar("T")


class Restartable(Protocol):
    """The SuperLink's process."""

    def ended(self) -> str | None:
        """Return how it ended; None while it runs."""
        ...

    def restart(self) -> None:
        """Start it again, and wait until it listens."""
        ...


class LastingLink:
    """A ``Link`` over a SuperLink that is started again when it ends; it is open within its context.

    Args:
        superlink: The process.
        connect: Submits a run to the SuperLink, as it is now, and yields a link to its nodes.
        note: Called with a sentence about each restart.
    """

    def __init__(
        self, superlink: Restartable, connect: Callable[[], AbstractContextManager[Link]], note: Callable[[str], None]
    ) -> None:
        self._superlink, self._connect, self._note = superlink, connect, note
        self._stack, self._restarts = ExitStack(), 0
        self._nodes: frozenset[int] = frozenset()
        self._sent: set[str] = set()

    def __enter__(self) -> "LastingLink":
        self._link = self._stack.enter_context(self._connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def nodes(self) -> frozenset[int]:
        """Return the nodes that are connected now."""
        self._nodes = self._call(lambda: self._link.nodes(), frozenset())
        return self._nodes

    def send(self, node: int, kind: str, fields: Fields, group: str = "") -> str:
        """Send a message and return its id; an empty one if it did not go out."""

        def sent() -> str:
            return self._link.send(node, kind, fields, group) if node in self._nodes else ""

        message = self._call(sent, "")
        if message:
            self._sent.add(message)
        return message

    def reply(self, message_id: str) -> Reply | None:
        """Return the reply to a message; None if there is none yet, and a failure if its SuperLink has ended."""
        lost: Reply | None = Failure("lost", "Flower's SuperLink ended before a reply came")
        found = self._call(lambda: self._link.reply(message_id) if message_id in self._sent else lost, lost)
        if found is not None:
            self._sent.discard(message_id)
        return found

    def forget(self, message_id: str) -> None:
        """Drop the reply to a message when it comes."""
        if message_id in self._sent:
            self._sent.discard(message_id)
            self._call(lambda: self._link.forget(message_id), None)

    def _call(self, call: Callable[[], T], lost: T) -> T:
        """Return the result of a call; ``lost`` if the SuperLink ended during it and has been started again."""
        if self._superlink.ended() is not None:
            self._revive()
        try:
            return call()
        except Exception:
            if self._superlink.ended() is None:
                raise
        self._revive()
        return lost

    def _revive(self) -> None:
        """Start the SuperLink again, and submit a run to it.

        Raises:
            EngineError: If it has ended too often, or does not start.
        """
        how = self._superlink.ended()
        if self._restarts == MOST_RESTARTS:
            raise EngineError(
                f"expected Flower's SuperLink to go on; it ended {MOST_RESTARTS + 1} times, at last {how}. All "
                "finished rounds are saved: start the server again, with the same command."
            )
        self._restarts += 1
        self._nodes, self._sent = frozenset(), set()
        self._stack.close()
        self._superlink.restart()
        self._link = self._stack.enter_context(self._connect())
        self._note(
            f"Flower's SuperLink ended ({how}) and was started again, for time {self._restarts} of at most "
            f"{MOST_RESTARTS}; clients connect again, and what they were asked is asked anew"
        )
