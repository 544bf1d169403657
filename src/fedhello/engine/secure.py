"""The local engine under secure aggregation: the server's side sees masked vectors alone.

Whatever a client computes (its update, its head statistics, its sums for Fisher scores) becomes one vector of whole
numbers, see ``fedhello.privacy``. The clients of a sum are split into groups at random; the server learns the sum of
each group. Clients that the simulation loses are gone before one of the four steps, each equally likely.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
import torch
from torch import Tensor

from fedhello.client.scoring import LARGEST_SQUARE, BlockSums, ScoreReply, ScoreRequest
from fedhello.client.settings import TrainingSettings
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Contribution, Heads
from fedhello.errors import PrivacyError, UpdateError
from fedhello.model.statistics import PARTS, HeadSums, scaled_to
from fedhello.privacy.masking import SECRET, Participant, PublicKeys, Shares, unmasked
from fedhello.privacy.secure import MASKED, SecureRound
from fedhello.privacy.vectors import LEAST
from fedhello.randomness import generator
from fedhello.state import RoundReport
from fedhello.types import Adapter, Rejection, Task, Update

STEPS = ("advertise", "share", "mask", "unmask")
"""Before which a client may be gone."""

SCORE_UNIT = 2.0**-40
"""What squared gradients are rounded to multiples of before they are summed."""


@dataclass
class MaskedSum:
    """One sum over a group of clients, with both sides in this process.

    Attributes:
        people: Client → its side; those who advertised keys.
        bits: Of the numbers.
        leaves: Client → the step before which it is gone.
    """

    people: Mapping[int, Participant]
    bits: int
    leaves: Mapping[int, str]
    keys: dict[int, PublicKeys] = field(init=False)
    sealed: dict[int, dict[int, bytes]] = field(init=False)
    total: np.ndarray | None = field(default=None, init=False)
    stayed: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.keys = {k: one.advertise() for k, one in self.people.items() if self._here(k, "advertise")}
        self.sealed = {k: self.people[k].share(self.keys) for k in self.keys if self._here(k, "share")}

    def _here(self, client: int, step: str) -> bool:
        return client not in self.leaves or STEPS.index(self.leaves[client]) > STEPS.index(step)

    def sends(self, client: int) -> bool:
        """Whether a client is there to send its masked vector."""
        return client in self.sealed and self._here(client, "mask")

    def masked(self, client: int, vector: np.ndarray) -> np.ndarray:
        """Return what a client sends."""
        received = {v: shares[client] for v, shares in self.sealed.items() if v != client}
        return self.people[client].mask(vector, received)

    def add(self, client: int, masked: np.ndarray) -> None:
        """Add what a client sent: the server's side."""
        self.total = masked if self.total is None else self.total + masked
        self.stayed.append(client)

    def result(self) -> np.ndarray:
        """Return the sum of the vectors of those who stayed."""
        if self.total is None:
            raise PrivacyError("expected masked vectors in a secure sum; none came")
        shares: list[Shares] = [self.people[k].unmask(self.stayed) for k in self.stayed if self._here(k, "unmask")]
        one = next(iter(self.people.values()))
        return unmasked(self.total, self.stayed, self.keys, self.sealed, shares, one.purpose, self.bits)

    def bytes_of(self, client: int) -> tuple[int, int]:
        """Return the bytes of the protocol to and from a client, beside its vector."""
        sealed = next(iter(self.sealed.values()), {})
        share = len(next(iter(sealed.values()), b""))
        keys, others = 3 * 32, max(0, len(self.sealed) - 1)
        down = keys * len(self.keys) + share * others + 4 * len(self.stayed)
        return down, keys + share * others + SECRET * len(self.sealed)


@dataclass
class SecureEngine:
    """An engine on this machine from which nothing of one client is seen.

    Attributes:
        inner: Trains the clients; what it yields stays with them.
        agreed: What clients and server agree on.
    """

    inner: LocalEngine
    agreed: SecureRound
    _sums: list[MaskedSum] = field(default_factory=list, init=False)

    @property
    def settings(self) -> TrainingSettings:
        """How clients train."""
        return self.inner.settings

    @settings.setter
    def settings(self, settings: TrainingSettings) -> None:
        self.inner.settings = settings

    def _start(self, purpose: str, clients: Sequence[int], who: tuple[int, int] | None, bits: int) -> list[MaskedSum]:
        """Let the clients of a sum exchange keys and shares, in groups.

        Args:
            purpose: What is summed.
            clients: Who is asked.
            who: Round and attempt, within which clients may be lost; None loses nobody.
            bits: Of the numbers.
        """
        groups = groups_of(clients, self.agreed.settings.group)
        leaves = {} if who is None else {k: step for k in clients if (step := self._leaves(who, k)) is not None}
        self._sums = []
        for g, group in enumerate(groups):
            name = f"{self.inner.run}/{purpose}/{g}".encode()
            self._sums.append(MaskedSum({k: Participant(k, name, bits) for k in group}, bits, leaves))
        return self._sums

    def _leaves(self, who: tuple[int, int], client: int) -> str | None:
        """Return the step before which a client is lost; None if it is not."""
        rng = generator(self.inner.federation.seed, "dropout of clients", *who, client)
        return STEPS[rng.integers(len(STEPS))] if rng.random() < self.inner.dropout else None

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        """Train the clients of a round, and yield the masked vector of each as it comes; see ``Engine``."""
        asked = list(tasks)
        if not asked:
            return
        round_, attempt = asked[0].round, asked[0].attempt
        sums = self._start(f"round/{round_}/{attempt}", [task.client for task in asked], (round_, attempt), 32)
        group_of = {k: one for one in sums for k in one.people}
        here = [task for task in asked if group_of[task.client].sends(task.client)]
        replies = iter(replace(self.inner, dropout=0.0).train(here, heads))
        samples = {client.id: client.samples for client in self.agreed.federation.clients}
        for task in asked:
            group = group_of[task.client]
            bytes_down, bytes_up = group.bytes_of(task.client)
            if not group.sends(task.client):
                yield Rejection(task.client, task.round, "lost", "nothing came back", bytes_down)
                continue
            reply = next(replies)
            if isinstance(reply, Rejection):
                yield replace(reply, bytes_up=bytes_up)
                continue
            try:
                masked = group.masked(task.client, self.agreed.vector(task, reply))
            except UpdateError as error:
                yield Rejection(task.client, task.round, error.reason, str(error), reply.bytes_down, bytes_up)
                continue
            sizes = reply.bytes_down + bytes_down, masked.nbytes + bytes_up
            tensors = {MASKED: torch.from_numpy(masked.view("<i4"))}
            yield Update(task.client, task.round, samples[task.client], tensors, {}, *sizes)

    def unmask(self, vectors: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
        """Add up the masked vectors of the round that is under way, and return the sum of the vectors.

        Raises:
            PrivacyError: If too few clients stay in a group.
        """
        for client, masked in vectors:
            group = next(one for one in self._sums if client in one.people)
            group.add(client, masked)
        return _plus([one.result() for one in self._sums])

    def trained_heads(self, report: RoundReport) -> Heads:
        """Return none; a head of its own does not leave a client."""
        return {}

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterator[Contribution]:
        """Yield the head statistics of some clients, or of all, as one sum; see ``Engine``.

        They are whole numbers, so the sum is that of the plain statistics, bit for bit.
        """
        asked = sorted(self.inner.data if clients is None else clients)
        most, like = self.agreed.most_samples, {}

        def vector(found: Contribution) -> np.ndarray:
            like.update({name: getattr(found.sums, name) for name in PARTS})
            return statistics_vector(found.sums, most)

        each = ((found.clients[0], vector(found), found.bytes_down) for found in self.inner.head_sums(asked, adapter))
        total, stayed, up, down = self._added(asked, each, "head statistics")
        yield Contribution(stayed, read_statistics(total, like), up, down)

    def block_scores(self, request: ScoreRequest) -> Iterator[ScoreReply]:
        """Yield what the clients that are asked contribute to the Fisher scores; the sum stands with the first of them.

        Clients that fail contribute zeros: who they are does not leave them either.
        """
        asked, L = [client.id for client in request.clients], self.inner.federation.num_blocks
        each = (
            (reply.client, score_vector(reply.sums, L), reply.bytes_down)
            for reply in replace(self.inner, dropout=0.0).block_scores(request)
        )
        total, stayed, up, down = self._added(asked, each, f"scores/{request.round}/{request.attempt}")
        yield from score_replies(total, stayed, down, up)

    def _added(
        self, asked: Sequence[int], each: Iterable[tuple[int, np.ndarray, int]], purpose: str
    ) -> tuple[np.ndarray, tuple[int, ...], int, int]:
        """Return the sum of 64-bit vectors, whose they are, and the bytes that went up and down."""
        sums = self._start(purpose, asked, None, 64)
        group_of = {k: one for one in sums for k in one.people}
        stayed, up, down = [], 0, 0
        for client, vector, bytes_down in each:
            group = group_of[client]
            masked = group.masked(client, vector)
            group.add(client, masked)
            stayed.append(client)
            protocol_down, protocol_up = group.bytes_of(client)
            up, down = up + masked.nbytes + protocol_up, down + bytes_down + protocol_down
        return _plus([one.result() for one in sums]), tuple(stayed), up, down


def groups_of(clients: Sequence[int], most: int) -> list[list[int]]:
    """Split clients at random, by the operating system's entropy, into as few groups of about equal size as possible.

    Args:
        clients: Who is asked.
        most: The most clients of a group.

    Raises:
        PrivacyError: If they are too few for a sum.
    """
    count = ceil(len(clients) / most)
    if len(clients) < LEAST * max(count, 1):
        raise PrivacyError(f"expected at least {LEAST} clients in a secure sum; found {len(clients)}")
    order = np.random.default_rng().permutation(len(clients))
    return [sorted(clients[i] for i in part) for part in np.array_split(order, count)]


def statistics_vector(sums: HeadSums, most: int | None) -> np.ndarray:
    """Return a client's head statistics, of at most so many samples, as numbers of 64 bits."""
    own = scaled_to(sums, most)
    return np.concatenate([getattr(own, name).round().long().reshape(-1).numpy() for name in PARTS]).view("<u8")


def read_statistics(total: np.ndarray, like: Mapping[str, Tensor]) -> HeadSums:
    """Return the head statistics of a sum of such vectors.

    Args:
        total: uint64.
        like: Part → tensor of its shape.
    """
    parts, at = {}, 0
    for name in PARTS:
        size = like[name].numel()
        parts[name] = torch.from_numpy(total[at : at + size].view("<i8").copy()).reshape(like[name].shape)
        at += size
    return HeadSums(**parts)


def score_vector(sums: BlockSums | None, L: int) -> np.ndarray:
    """Return a client's sums for Fisher scores as numbers of 64 bits, shape (L + 1,); zeros where there are none."""
    if sums is None:
        return np.zeros(L + 1, dtype="<u8")
    squares = (sums.squares.clamp(max=LARGEST_SQUARE) / SCORE_UNIT).round().clamp(max=2.0**53)
    return torch.cat([squares, sums.count.reshape(1)]).numpy().astype("<u8")


def score_replies(total: np.ndarray, stayed: Sequence[int], bytes_down: int, bytes_up: int) -> Iterator[ScoreReply]:
    """Yield the replies of the clients of such a sum: the sum stands with the first, zeros with the others."""
    squares = torch.from_numpy(total[:-1].astype(np.float64)) * SCORE_UNIT
    sums = BlockSums(squares, torch.tensor(float(total[-1]), dtype=torch.float64))
    zero = BlockSums(torch.zeros_like(squares), torch.zeros_like(sums.count))
    for i, k in enumerate(stayed):
        yield ScoreReply(k, zero, "") if i else ScoreReply(k, sums, "", bytes_down, bytes_up)


def _plus(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum modulo 2^b of vectors of one type."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
