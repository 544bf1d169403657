"""The local engine under secure aggregation: the server's side sees masked vectors alone.

Whatever a client computes (its update, its head statistics, its sums for Fisher scores) becomes one vector of whole
numbers, see ``fedhello.privacy``. Clients that the simulation loses are gone before one of the four steps, each equally
likely.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch

from fedhello.client.scoring import ScoreReply, ScoreRequest
from fedhello.client.settings import TrainingSettings
from fedhello.engine.local import LocalEngine
from fedhello.engine.observer import Observer
from fedhello.engine.protocol import Contribution, Heads
from fedhello.engine.sums import SecureSums, everywhere, read_scores, read_statistics, score_vector, statistics_vector
from fedhello.errors import UpdateError
from fedhello.model.statistics import PARTS
from fedhello.privacy.masking import SECRET, MaskedSum, Participant, PublicKeys, Sealed, Shares
from fedhello.privacy.secure import MASKED, Opened, SecureRound
from fedhello.randomness import generator
from fedhello.state import RoundReport
from fedhello.types import Adapter, Rejection, Task, Update

STEPS = ("advertise", "share", "mask", "unmask")
"""Before which a client may be gone."""


@dataclass
class People:
    """The clients' side of the sums under way, in this process.

    Attributes:
        leaves: Client → the step before which it is gone.
    """

    leaves: Mapping[int, str] = field(default_factory=dict)
    _people: dict[int, Participant] = field(default_factory=dict, init=False)

    def keys(self, one: MaskedSum, clients: Sequence[int]) -> Iterator[tuple[int, PublicKeys]]:
        """Yield public keys; see ``Steps``."""
        for k in self._here("advertise", clients):
            self._people[k] = Participant(k, one.purpose.encode(), one.bits)
            yield k, self._people[k].advertise()

    def sealed(self, one: MaskedSum) -> Iterator[tuple[int, Sealed]]:
        """Yield encrypted shares; see ``Steps``."""
        for k in self._here("share", one.keys):
            yield k, self._people[k].share(one.keys, one.layout, one.told.encode())

    def shares(self, one: MaskedSum) -> Iterator[tuple[int, Shares]]:
        """Yield what clients reveal; see ``Steps``."""
        for k in self._here("unmask", one.stayed):
            yield k, self._people[k].unmask(one.stayed)

    def sends(self, client: int) -> bool:
        """Whether a client is there to send its masked vector."""
        return client in self._here("mask", [client])

    def masked(self, one: MaskedSum, client: int, vector: np.ndarray) -> np.ndarray:
        """Return what a client sends of a vector."""
        return self._people[client].mask(vector, one.received_by(client))

    def _here(self, step: str, clients: Iterable[int]) -> list[int]:
        left = {k for k, before in self.leaves.items() if STEPS.index(before) <= STEPS.index(step)}
        return [k for k in clients if k not in left]


@dataclass
class SecureEngine:
    """An engine on this machine from which nothing of one client is seen.

    Attributes:
        inner: Trains the clients; what it yields stays with them.
        agreed: What clients and server agree on.
        happened: See ``Engine``.
    """

    inner: LocalEngine
    agreed: SecureRound
    happened: Sequence[str] = ()
    _people: People = field(default_factory=People, init=False)
    _secure: SecureSums = field(init=False)

    def __post_init__(self) -> None:
        self._secure = SecureSums(self._people, self.agreed, self.inner.run)

    @property
    def settings(self) -> TrainingSettings:
        """How clients train."""
        return self.inner.settings

    @settings.setter
    def settings(self, settings: TrainingSettings) -> None:
        self.inner.settings = settings

    @property
    def observer(self) -> Observer:
        """See ``Engine``."""
        return self.inner.observer

    @observer.setter
    def observer(self, observer: Observer) -> None:
        self.inner.observer = observer

    def _leaves(self, who: tuple[int, int], client: int) -> str | None:
        """Return the step before which a client is lost; None if it is not."""
        rng = generator(self.inner.federation.seed, "dropout of clients", *who, client)
        return STEPS[rng.integers(len(STEPS))] if rng.random() < self.inner.dropout else None

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        """Train the clients of a round, and yield the masked vector of each as it comes; see ``Engine``."""
        asked = {task.client: task for task in tasks}
        if not asked:
            return
        first = next(iter(asked.values()))
        gone = {k: self._leaves((first.round, first.attempt), k) for k in asked}
        self._people.leaves = {k: step for k, step in gone.items() if step is not None}
        started = self._secure.start(
            f"round/{first.round}",
            list(asked),
            32,
            lambda group: self.agreed.plan({k: asked[k].allocation for k in group}),
        )
        here = {k for k in started if self._people.sends(k)}
        replies = iter(replace(self.inner, dropout=0.0).train([asked[k] for k in asked if k in here], heads))
        clients = self.agreed.federation.by_id
        for k, task in asked.items():
            group = self._secure.of(k) if k in here else None
            if group is None:
                yield Rejection(k, task.round, "lost", "nothing came back")
                continue
            (bytes_down, bytes_up), reply = _bytes_of(group, k), next(replies)
            if isinstance(reply, Rejection):
                yield replace(reply, bytes_up=bytes_up)
                continue
            try:
                masked = self._people.masked(group, k, self.agreed.vector(task, reply))
            except UpdateError as error:
                yield Rejection(k, task.round, error.reason, str(error), reply.bytes_down, bytes_up)
                continue
            sizes = reply.bytes_down + bytes_down, masked.nbytes + bytes_up
            yield Update(k, task.round, clients[k].samples, {MASKED: torch.from_numpy(masked.view("<i4"))}, {}, *sizes)

    def unmask(self, vectors: Iterable[tuple[int, np.ndarray]]) -> Opened:
        """Add up the masked vectors of the round that is under way, and return the sum of the vectors.

        Raises:
            PrivacyError: If too few clients stay in a group.
        """
        return self._secure.opened(vectors)

    def trained_heads(self, report: RoundReport) -> Heads:
        """Return none; a head of its own does not leave a client."""
        return {}

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterator[Contribution]:
        """Yield the head statistics of some clients, or of all, as one sum; see ``Engine``.

        They are whole numbers, so the sum is that of the plain statistics, bit for bit.
        """
        asked = sorted(self.inner.data if clients is None else clients)
        found = self.inner.head_sums(asked, adapter)
        first = next(found)
        like = {name: getattr(first.sums, name) for name in PARTS}
        each = (
            (one.clients[0], statistics_vector(one.sums, self.agreed.most_samples), one.bytes_down)
            for one in chain([first], found)
        )
        total, up, down = self._added("head statistics", asked, sum(part.numel() for part in like.values()), each)
        yield Contribution(self._secure.stayed, read_statistics(total, like), up, down)

    def block_scores(self, request: ScoreRequest) -> Iterator[ScoreReply]:
        """Yield what the clients that are asked contribute to the Fisher scores, as one sum.

        Clients that fail contribute zeros: who they are does not leave them either.
        """
        asked, L = [client.id for client in request.clients], self.inner.federation.num_blocks
        each = (
            (reply.clients[0], score_vector(reply.sums, L), reply.bytes_down)
            for reply in replace(self.inner, dropout=0.0).block_scores(request)
        )
        total, up, down = self._added(f"scores/{request.round}", asked, L + 1, each)
        yield ScoreReply(self._secure.stayed, read_scores(total), "", down, up)

    def _added(
        self, what: str, asked: Sequence[int], size: int, each: Iterable[tuple[int, np.ndarray, int]]
    ) -> tuple[np.ndarray, int, int]:
        """Return the sum of 64-bit vectors, and the bytes that went up and down."""
        self._people.leaves = {}
        self._secure.start(what, asked, 64, everywhere(size, self.agreed.settings.least))
        up = down = 0
        for client, vector, bytes_down in each:
            group = self._secure.of(client)
            masked = self._people.masked(group, client, vector)
            group.add(client, masked)
            protocol_down, protocol_up = _bytes_of(group, client)
            up, down = up + masked.nbytes + protocol_up, down + bytes_down + protocol_down
        return self._secure.opened().total, up, down


def _bytes_of(one: MaskedSum, client: int) -> tuple[int, int]:
    """Return the bytes of the protocol to and from a client, beside its vector."""
    down = len(one.told) + 2 * 32 * len(one.keys) + sum(map(len, one.received_by(client).values()))
    own, seeds = one.sealed[client], len(one.sealed[client].commitments)
    up = 2 * 32 + 32 * seeds + sum(map(len, own.shares.values())) + SECRET * seeds * len(one.sealed)
    return down + 4 * len(one.sealed), up
