"""The engine over a network under secure aggregation: four messages to each client where there was one.

Between two messages a client may be lost; the sum is that of the clients whose masked vector came, as long as enough
of them answer the last message. What the server holds of one client is its keys, encrypted shares and a masked vector.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np
import torch

from fedhello.client.scoring import ScoreReply, ScoreRequest
from fedhello.engine.observer import phase_after
from fedhello.engine.protocol import Contribution, Heads
from fedhello.engine.sums import SecureSums, everywhere, read_scores, read_statistics
from fedhello.engine.wire import encode_tensors
from fedhello.errors import UpdateError
from fedhello.model.statistics import PARTS
from fedhello.network.engine import FAULTS, RemoteEngine, Sent
from fedhello.network.masks import read_keys, read_sealed, read_shares, write_keys
from fedhello.network.messages import Failure, Fields, Reply, one_line
from fedhello.network.refusals import said
from fedhello.privacy.masking import SECRET, MaskedSum, PublicKeys, Sealed, Shares, seeds_opened
from fedhello.privacy.secure import MASKED, Opened, SecureRound
from fedhello.types import Adapter, Rejection, Task, Update

T = TypeVar("T")


@dataclass
class SecureRemoteEngine(RemoteEngine):
    """Reaches clients over a link, and learns nothing but sums over them.

    Attributes:
        agreed: What clients and server agree on; needed.
    """

    agreed: SecureRound | None = None
    _secure: SecureSums = field(init=False)

    def __post_init__(self) -> None:
        self._secure = SecureSums(self, self._agreed, self.run)

    @classmethod
    def over(cls, engine: RemoteEngine, agreed: SecureRound) -> "SecureRemoteEngine":
        """Return the engine that sends as another does, with secure sums."""
        same = {one.name: getattr(engine, one.name) for one in fields(engine) if one.init}
        return cls(**same, agreed=agreed)

    @property
    def _agreed(self) -> SecureRound:
        if self.agreed is None:
            raise TypeError("expected agreed, what clients and server of a secure run agree on; found None")
        return self.agreed

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        """Let the clients of a round train, and yield the masked vector of each; see ``Engine``."""
        asked = {task.client: task for task in tasks}
        if not asked:
            return
        self._gather()
        first, agreed = next(iter(asked.values())), self._agreed
        here = self._secure.start(
            f"round/{first.round}", list(asked), 32, lambda group: agreed.plan({k: asked[k].allocation for k in group})
        )
        groups = {k: self._secure.of(k) for k in here}
        sent = {k: self._send_task(asked[k], _received(one, k), one.size(k)) for k, one in groups.items()}
        found = self._vectors(list(sent.values()))
        for k, task in asked.items():
            bytes_down = sent[k].bytes_down if k in sent else 0
            reply = found.get(k) or Rejection(k, task.round, "lost", "it left before its vector was due")
            if isinstance(reply, Rejection):
                yield reply
                continue
            masked = torch.frombuffer(bytearray(reply), dtype=torch.int32)
            yield Update(k, task.round, self.federation.by_id[k].samples, {MASKED: masked}, {}, bytes_down, len(reply))

    def _vectors(self, sent: Sequence[Sent]) -> dict[int, bytes | Rejection]:
        """Return, by client, its masked vector, or why there is none; with a fixed number, of the first that come."""
        found: dict[int, bytes | Rejection] = {}
        round_ = max((one.expected.round for one in sent if one.expected is not None), default=0)
        for one, reply in self._replies(sent):
            masked = reply.get("masked") if isinstance(reply, dict) else None
            size = self._secure.of(one.client).size(one.client)
            if isinstance(masked, bytes) and len(masked) == size:
                found[one.client] = masked
            elif isinstance(reply, Failure):
                found[one.client] = Rejection(one.client, round_, reply.reason, one_line(reply.detail), one.bytes_down)
            else:
                self._heed(one, reply)
                reason = FAULTS.get(str(reply.get("error")), "failed" if "error" in reply else "malformed")
                detail = said(reply) if "error" in reply else f"expected a masked vector of {size} bytes"
                found[one.client] = Rejection(one.client, round_, reason, detail, one.bytes_down)
            outcome = found[one.client]
            self.observer.on_client(one.client, "sent" if isinstance(outcome, bytes) else phase_after(outcome))
            came = sum(isinstance(vector, bytes) for vector in found.values())
            # Under Poisson sampling all who are asked count: who is first must not decide who else is in the sum.
            if not self.federation.poisson and came >= self.federation.clients_per_round:
                break
        for one in sent:
            late = Rejection(one.client, round_, "late", "enough others came first", one.bytes_down)
            found.setdefault(one.client, late)
        return found

    def unmask(self, vectors: Iterable[tuple[int, np.ndarray]]) -> Opened:
        """Add up the masked vectors of the round, have the masks taken out, and return the sum.

        Raises:
            PrivacyError: If too few clients stay in a group.
        """
        return self._secure.opened(vectors)

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterator[Contribution]:
        """Yield the head statistics of some clients, or of all who stay, as one sum; see ``Engine``.

        Raises:
            PrivacyError: If too few clients stay.
        """
        payload: Fields = {} if adapter is None else {"adapter": encode_tensors(adapter.tensors)}
        asked = sorted(self.node_of) if clients is None else sorted(set(clients) & self.node_of.keys())
        like = {**self.sums_like, "cells": self.sums_like["counts"]}
        about = {k: payload | {"client": k, "most": self._agreed.most_samples or 0} for k in asked}
        seconds = {k: self._sums_seconds(k, payload) for k in asked}
        total, up, down = self._added("sums", about, seconds, sum(like[name].numel() for name in PARTS))
        yield Contribution(self._secure.stayed, read_statistics(total, like), up, down)

    def block_scores(self, request: ScoreRequest) -> Iterator[ScoreReply]:
        """Yield what the clients that are asked contribute to the Fisher scores, as one sum.

        Raises:
            PrivacyError: If too few clients stay.
        """
        self._gather()
        asked = {client.id: self._request_fields(request, client) for client in request.clients}
        about = {k: own for k, (own, _) in asked.items()}
        seconds = {k: float(own["seconds"]) for k, own in about.items()}
        total, up, down = self._added("scores", about, seconds, self.federation.num_blocks + 1)
        yield ScoreReply(self._secure.stayed, read_scores(total), "", down, up)

    def _added(
        self, kind: str, about: Mapping[int, Fields], seconds: Mapping[int, float], size: int
    ) -> tuple[np.ndarray, int, int]:
        """Return the sum of vectors of 64-bit numbers, and the bytes up and down."""
        here = self._secure.start(kind, sorted(about), 64, everywhere(size, self._agreed.settings.least))
        full = {k: about[k] | _received(self._secure.of(k), k) for k in here}

        def read(k: int, reply: Fields) -> np.ndarray:
            masked = reply.get("masked")
            if not isinstance(masked, bytes) or len(masked) != 8 * size:
                raise UpdateError(f"expected a masked vector of {size} numbers; found something else", "malformed")
            return np.frombuffer(masked, dtype="<u8")

        total = self._secure.opened(self._asked(kind, full, read, seconds)).total
        down = sum(len(value) for own in full.values() for value in own.values() if isinstance(value, (bytes, str)))
        return total, 8 * size * len(self._secure.stayed), down

    def keys(self, one: MaskedSum, clients: Sequence[int]) -> Iterator[tuple[int, PublicKeys]]:
        """Yield public keys; see ``Steps``."""
        about = {k: {"purpose": one.purpose, "client": k, "bits": one.bits} for k in clients}
        return self._asked("keys", about, lambda k, reply: read_keys(str(reply.get("keys"))))

    def sealed(self, one: MaskedSum) -> Iterator[tuple[int, Sealed]]:
        """Yield encrypted shares; see ``Steps``."""
        everybody = json.dumps({str(k): write_keys(keys) for k, keys in one.keys.items()})
        about = {k: {"purpose": one.purpose, "keys": everybody, "plan": one.told} for k in one.keys}

        def read(k: int, reply: Fields) -> Sealed:
            found = read_sealed(reply)
            seeds = len(one.layout.seeds_of(k))
            if found.shares.keys() != one.keys.keys() - {k} or len(found.commitments) != seeds:
                raise UpdateError("expected shares for each other client; found others", "malformed")
            return found

        return self._asked("shares", about, read)

    def shares(self, one: MaskedSum) -> Iterator[tuple[int, Shares]]:
        """Yield what clients reveal; see ``Steps``."""
        stayed, order = sorted(one.stayed), list(one.keys)
        sizes = {v: SECRET * len(seeds_opened(one.layout, v, stayed)) for v in stayed}

        def read(k: int, reply: Fields) -> Shares:
            revealed = read_shares(reply.get("shares"))
            own = {v: len(found) for v, found in revealed.own.items()}
            if revealed.index != 1 + order.index(k) or own != sizes:
                raise UpdateError("expected shares of those who stayed, with the client's own index", "malformed")
            return revealed

        return self._asked("unmask", {k: {"purpose": one.purpose, "stayed": json.dumps(stayed)} for k in stayed}, read)

    def _asked(
        self,
        kind: str,
        about: Mapping[int, Fields],
        read: Callable[[int, Fields], T],
        seconds: Mapping[int, float] | None = None,
    ) -> Iterator[tuple[int, T]]:
        """Send one message to each client, and yield what is read from the replies that count; others are noted."""
        sent = []
        for k, own in about.items():
            size = sum(len(value) for value in own.values() if isinstance(value, (bytes, str)))
            due = self.pace.seconds(2 * size, self._rate(k), 0.0, 1.0) if seconds is None else seconds[k]
            sent.append(self._send(k, kind, own | {"run": self.run}, due))
        for one, reply in self._replies(sent):
            try:
                yield one.client, read(one.client, _answered(reply))
            except UpdateError as error:
                if not isinstance(reply, Failure):
                    self._heed(one, reply)
                self.note(f"{self.called(one.client)} leaves a secure sum: {one_line(error)}")


def _received(one: MaskedSum, client: int) -> Fields:
    """Return what a client needs to mask its vector, beside the work."""
    return {"purpose": one.purpose, "shares": json.dumps({k: own.hex() for k, own in one.received_by(client).items()})}


def _answered(reply: Reply) -> Fields:
    """Return a reply that is an answer.

    Raises:
        UpdateError: If there is none, or it says what went wrong.
    """
    if isinstance(reply, Failure):
        raise UpdateError(reply.detail or reply.reason, reply.reason)
    if "error" in reply:
        raise UpdateError(said(reply))
    return reply
