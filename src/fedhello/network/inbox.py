"""The replies of one round: accepted from invited clients, once each, up to the number wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedhello.engine.wire import Expected, decode
from fedhello.types import Reason, Rejection, Update


@dataclass
class Inbox:
    """Checks the replies of a round, in any order; keeps which clients replied, not their updates.

    Attributes:
        round: t.
        expected: Client → the expected update; only these clients are invited.
        wanted: The most updates that count, in the order of arrival; None for all.
        counted: The clients whose updates count.
        rejected: Client → why its reply does not count; a client may try again until one counts.
    """

    round: int
    expected: Mapping[int, Expected]
    wanted: int | None = None
    counted: set[int] = field(default_factory=set)
    rejected: dict[int, Rejection] = field(default_factory=dict)

    def take(self, client: int, payload: bytes) -> Update | Rejection:
        """Return the update in a message, or its rejection.

        Args:
            client: The sender's id, as the transport authenticates it.
            payload: Untrusted bytes.
        """
        if client not in self.expected:
            return self._refusal(client, "not invited", "nothing was asked of this client", payload)
        if client in self.counted:
            return self._refusal(client, "duplicate", "its update counts already", payload)
        if self.is_full:
            reply: Update | Rejection = self._refusal(client, "late", "enough others came first", payload)
        else:
            reply = decode(payload, self.expected[client])
        if isinstance(reply, Rejection):
            self.rejected[client] = reply
        else:
            self.counted.add(client)
            self.rejected.pop(client, None)
        return reply

    @property
    def is_full(self) -> bool:
        """Whether ``wanted`` updates count."""
        return self.wanted is not None and len(self.counted) >= self.wanted

    def close(self) -> tuple[Rejection, ...]:
        """Return the rejections of all clients that do not count, by ascending id; without a reply: lost, or late."""
        silent = self.expected.keys() - self.counted - self.rejected.keys()
        reason: Reason = "late" if self.is_full else "lost"
        absent = {k: self._refusal(k, reason, "nothing came back in time", b"") for k in silent}
        return tuple(reply for _, reply in sorted((self.rejected | absent).items()))

    def _refusal(self, client: int, reason: Reason, detail: str, payload: bytes) -> Rejection:
        sent = self.expected[client].bytes_down if client in self.expected else 0
        return Rejection(client, self.round, reason, detail, sent, len(payload))
