"""The registry of connected nodes, which are asked to join and report their name, data and budget."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhello.errors import UpdateError
from fedhello.network.messages import PROBE, Failure, Fields, Link, Reply, one_line
from fedhello.network.refusals import said
from fedhello.notes import Line
from fedhello.types import Budget

SLOWEST = 16_000.0
"""Lower bound on a client's bytes per second, so that no client can extend its deadlines without limit."""


SLOWEST_TRAINING = 1e8
"""Lower bound on a client's FLOP/s, likewise."""


LONGEST_FACTS = 2**22
"""The most characters of a client's facts. Batches are counted by shape, so that this does not limit the data."""


NAME = r"^[A-Za-z0-9._-]{1,64}$"
"""Valid names of clients."""


Count = Annotated[int, Field(ge=1, lt=2**31)]


Amount = Annotated[float, Field(gt=0, le=1e18)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DeclaredBudget(_Strict):
    """The budget that a client declares; see ``fedhello.types.Budget``."""

    blocks: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    rank: Count | None = None
    memory: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    upload: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    seconds: Amount | None = None


class ClientInfo(_Strict):
    """The facts that a client reports when it joins.

    Attributes:
        name: Its stable name.
        samples: n_k.
        classes: The labels that occur in its data, ascending.
        widest: Samples and tokens of its widest batch.
        batches: The expected shapes of its batches in a round: samples, tokens, and how many batches have this shape.
        budget: Its budget.
        speed: Its FLOP/s in training; None if it cannot be measured.
        busy: Seconds that it took to answer, without the transfer.
    """

    name: str = Field(pattern=NAME)
    samples: Count
    classes: tuple[Annotated[int, Field(ge=0)], ...] = ()
    widest: tuple[Count, Count]
    batches: tuple[tuple[Count, Count, Count], ...] = Field(min_length=1)
    budget: DeclaredBudget
    speed: Annotated[float, Field(ge=SLOWEST_TRAINING, le=1e18)] | None = None
    busy: float = Field(ge=0, le=1e9)

    def as_budget(self) -> Budget:
        """Return the budget, with the client's measured speed if it has seconds."""
        return Budget(**self.budget.model_dump(), speed=None if self.budget.seconds is None else self.speed)

    @property
    def shapes(self) -> tuple[tuple[int, int], list[tuple[int, int]], list[int]]:
        """The widest batch, the shapes of a round's batches, and how many have each of them."""
        return self.widest, [(b, T) for b, T, _ in self.batches], [n for *_, n in self.batches]

    def same_client(self, other: "ClientInfo") -> bool:
        """Whether both are of one client with the same data."""
        return (self.name, self.samples, self.classes) == (other.name, other.samples, other.classes)


def count_shapes(batches: Iterable[tuple[int, ...]]) -> tuple[tuple[int, int, int], ...]:
    """Return how many batches have each shape: samples, tokens and number, ascending.

    Example:
        >>> count_shapes([(8, 20), (7, 30), (8, 20)])
        ((7, 30, 1), (8, 20, 2))
    """
    return tuple((b, T, n) for (b, T), n in sorted(Counter(batches).items()))


def read_client_info(reply: Reply, num_labels: int) -> ClientInfo:
    """Return the facts in a client's reply, after checking them.

    Args:
        reply: The reply to the message ``join``.
        num_labels: C.

    Raises:
        UpdateError: If the reply is not valid.
    """
    if isinstance(reply, Failure):
        raise UpdateError(f"expected a client to join; {one_line(reply.detail)}", reply.reason)
    if "error" in reply:
        raise UpdateError(f"expected a client to join; it says: {said(reply)}")
    text = reply.get("facts")
    if not isinstance(text, str):
        raise UpdateError("expected a client to say what it has; found something else", "malformed")
    if len(text) > LONGEST_FACTS:
        raise UpdateError(
            f"expected a client's facts (name, budget, classes, and the number of its batches by shape) in at most "
            f"{LONGEST_FACTS} characters; found {len(text)}",
            "too large",
        )
    try:
        facts = ClientInfo.model_validate_json(text)
    except ValidationError as error:
        raise UpdateError(f"expected a client's facts; {one_line(str(error.errors()[0]))}", "malformed") from error
    if list(facts.classes) != sorted(set(facts.classes)) or any(c >= num_labels for c in facts.classes):
        raise UpdateError(f"expected ascending classes below {num_labels} from {facts.name}", "malformed")
    return facts


POLL = 0.1
"""Seconds between two polls for replies."""


LOOK_AROUND = 1.0
"""Seconds between two polls for connected nodes."""


@dataclass
class ClientRegistry:
    """The registry of connected nodes: it asks every node once to join and reads the replies.

    With keys, a node is asked to join only if its key is one of the server's, and only under the name of its key.
    Without keys nobody can say whose a name is: the first node to give a name keeps it as long as it is connected.

    Attributes:
        link: Carries the messages.
        invitation: The content of the message ``join``.
        num_labels: C.
        clock: A monotonic clock, in seconds.
        owners: Node → the name of its key, which may change; None without keys.
        refresh: Called before each look, to bring the owners up to date.
        connected: The nodes that were connected at the last poll, without strangers.
    """

    link: Link
    invitation: Fields
    num_labels: int
    clock: Callable[[], float] = time.monotonic
    owners: Mapping[int, str] | None = None
    refresh: Callable[[], None] = lambda: None
    connected: frozenset[int] = frozenset()
    _asked: dict[int, tuple[str, float]] = field(default_factory=dict)
    _kept: dict[int, "Arrival"] = field(default_factory=dict)
    _looked: float = -LOOK_AROUND

    def look(self) -> list["Arrival"]:
        """Return the nodes that answered since the last poll, at most once in ``LOOK_AROUND`` seconds."""
        if self.clock() - self._looked < LOOK_AROUND:
            return []
        self._looked = self.clock()
        self.refresh()
        nodes = self.link.nodes()
        for node in self._asked.keys() - nodes:
            self._forget(node)
        self.connected = nodes if self.owners is None else nodes & self.owners.keys()
        strangers = sorted(nodes - self.connected - self._asked.keys())
        for node in strangers:
            self._asked[node] = ("", self.clock())
        for node in sorted(self.connected - self._asked.keys()):
            message = self.link.send(node, "join", self.invitation)
            if message:  # else it is asked at the next look
                self._asked[node] = (message, self.clock())
        kept, self._kept = self._kept, {}
        again = [arrival for node, arrival in sorted(kept.items()) if node in self.connected]
        refused = [Arrival(node, STRANGER, 0.0) for node in strangers]
        return again + refused + [arrival for node in sorted(self._asked) if (arrival := self._heard(node)) is not None]

    def _heard(self, node: int) -> "Arrival | None":
        message, began = self._asked[node]
        reply = self.link.reply(message) if message else None
        if reply is None:
            return None
        self._asked[node] = ("", began)  # it is not asked again
        try:
            facts = read_client_info(reply, self.num_labels)
        except UpdateError as error:
            return Arrival(node, str(error), 0.0)
        owner = facts.name if self.owners is None else self.owners.get(node)
        if owner is None:
            return Arrival(node, STRANGER, 0.0)
        if facts.name != owner:
            return Arrival(node, not_its_name(facts.name, owner), 0.0)
        return Arrival(node, facts, self.clock() - began)

    def ask_again(self, node: int) -> None:
        """Ask a node again, which has restarted and does not know the run."""
        self._forget(node)

    def _forget(self, node: int) -> None:
        message, _ = self._asked.pop(node, ("", 0.0))
        if message:
            self.link.forget(message)

    def keep(self, arrival: "Arrival") -> None:
        """Return an arrival again at the next poll, since its name is taken, possibly by a dead connection.

        Flower notices only after up to a minute that a node was killed; its client may return earlier.
        """
        self._kept[arrival.node] = replace(arrival, seen=True)


@dataclass(frozen=True)
class Arrival:
    """A node's reply to ``join`` and the seconds that it took, or why it does not count.

    ``seen`` says that it was returned before.
    """

    node: int
    facts: ClientInfo | str
    seconds: float
    seen: bool = False

    @property
    def name(self) -> str:
        """The client's name, if it is known."""
        return self.facts.name if isinstance(self.facts, ClientInfo) else ""

    @property
    def rate(self) -> float:
        """Lower bound on its bytes per second, from the probe that was sent both ways."""
        busy = self.facts.busy if isinstance(self.facts, ClientInfo) else 0.0
        return max(2 * len(PROBE) / max(self.seconds - busy, POLL), SLOWEST)


STRANGER = (
    "its key is not among those in the server's folder of --keys. If it is one of yours, put its .pub file there."
)
"""The message about a node whose key somebody else has registered."""


def not_its_name(name: str, owner: str) -> str:
    """Return the message about a client that joins under another name than that of its key."""
    return f"{name!r} is not the name of its key, which is {owner!r}; start it with --name {owner}, or without --name"


def not_admitted(name: str, complaint: str) -> str:
    """Return the line that says why a client, whose name may not be known, does not take part."""
    return Line(f"a client was not admitted: {complaint}", event="not admitted", name=name or None, reason=complaint)


def taken(name: str) -> str:
    """Return the message to a client whose name is taken by a connected one."""
    return f"{name!r} is connected already; it is admitted when that connection ends"
