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
from fedhello.engine.protocol import Contribution, Heads
from fedhello.engine.secure import groups_of, read_statistics, score_replies
from fedhello.engine.wire import encode_tensors
from fedhello.errors import PrivacyError, UpdateError
from fedhello.model.statistics import PARTS
from fedhello.network.engine import FAULTS, RemoteEngine, Sent
from fedhello.network.masks import read_keys, read_object, read_shares, write_encoding, write_keys
from fedhello.network.messages import Failure, Fields, Reply, one_line
from fedhello.privacy.masking import PublicKeys, Shares, threshold, unmasked
from fedhello.privacy.secure import MASKED, SecureRound
from fedhello.types import Adapter, Rejection, Task, Update

T = TypeVar("T")


@dataclass
class RemoteSum:
    """The server's side of one sum over a group of clients.

    Attributes:
        purpose: What is summed.
        bits: b of the numbers.
        keys: Client → its public keys.
        sealed: Client → for each other client, what it encrypted for it, in hexadecimal digits.
        total: The sum of the masked vectors that came; None before the first.
        stayed: The clients whose vectors these are.
    """

    purpose: str
    bits: int
    keys: dict[int, PublicKeys] = field(default_factory=dict)
    sealed: dict[int, dict[int, str]] = field(default_factory=dict)
    total: np.ndarray | None = None
    stayed: list[int] = field(default_factory=list)

    def for_client(self, client: int) -> Fields:
        """Return what a client needs to mask its vector."""
        received = {str(v): one[client] for v, one in self.sealed.items() if v != client}
        return {"purpose": self.purpose, "shares": json.dumps(received)}

    def add(self, client: int, masked: np.ndarray) -> None:
        """Add a masked vector."""
        self.total = masked if self.total is None else self.total + masked
        self.stayed.append(client)


@dataclass
class SecureRemoteEngine(RemoteEngine):
    """Reaches clients over a link, and learns nothing but sums over them.

    Attributes:
        agreed: What clients and server agree on; needed.
    """

    agreed: SecureRound | None = None
    _open: list[RemoteSum] = field(default_factory=list, init=False)
    _started: int = field(default=0, init=False)

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
        asked = list(tasks)
        if not asked:
            return
        self._gather()
        what = f"round/{asked[0].round}/{asked[0].attempt}"
        group_of = self._start(what, [task.client for task in asked], 32)
        encoding = self._agreed.encoding(asked[0].allocation)
        size, written = 4 * encoding.length, write_encoding(encoding)
        sent = {}
        for task in asked:
            if task.client in group_of:
                more = {"encoding": written, "ranks": json.dumps(list(task.allocation.ranks))}
                more |= group_of[task.client].for_client(task.client)
                sent[task.client] = self._send_task(task, more, size)
        found = self._vectors(list(sent.values()), size // 4)
        for task in asked:
            k, bytes_down = task.client, sent[task.client].bytes_down if task.client in sent else 0
            reply = found.get(k) or Rejection(k, task.round, "lost", "it left before its vector was due")
            if isinstance(reply, Rejection):
                yield reply
                continue
            masked = torch.frombuffer(bytearray(reply), dtype=torch.int32)
            yield Update(k, task.round, self.members[k].samples, {MASKED: masked}, {}, bytes_down, len(reply))

    def _vectors(self, sent: Sequence[Sent], length: int) -> dict[int, bytes | Rejection]:
        """Return, by client, its masked vector, of the first ``clients_per_round`` that come, or why there is none."""
        found: dict[int, bytes | Rejection] = {}
        round_ = max((one.expected.round for one in sent if one.expected is not None), default=0)
        for one, reply in self._replies(sent):
            masked = reply.get("masked") if isinstance(reply, dict) else None
            if isinstance(masked, bytes) and len(masked) == 4 * length:
                found[one.client] = masked
            elif isinstance(reply, Failure):
                found[one.client] = Rejection(one.client, round_, reply.reason, one_line(reply.detail), one.bytes_down)
            else:
                self._heed(one, reply)
                reason = FAULTS.get(str(reply.get("error")), "failed" if "error" in reply else "malformed")
                detail = one_line(reply.get("detail", f"expected a masked vector of {length} numbers"))
                found[one.client] = Rejection(one.client, round_, reason, detail, one.bytes_down)
            if sum(isinstance(vector, bytes) for vector in found.values()) >= self.federation.clients_per_round:
                break
        for one in sent:
            late = Rejection(one.client, round_, "late", "enough others came first", one.bytes_down)
            found.setdefault(one.client, late)
        return found

    def unmask(self, vectors: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
        """Add up the masked vectors of the round, have the masks taken out, and return the sum.

        Raises:
            PrivacyError: If too few clients stay in a group.
        """
        for client, masked in vectors:
            next(one for one in self._open if client in one.sealed).add(client, masked)
        return self._opened()

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
        size = sum(like[name].numel() for name in PARTS)
        total, stayed, up, down = self._added("sums", about, seconds, size)
        yield Contribution(stayed, read_statistics(total, like), up, down)

    def block_scores(self, request: ScoreRequest) -> Iterator[ScoreReply]:
        """Yield what the clients that are asked contribute to the Fisher scores; the sum stands with the first of them.

        Raises:
            PrivacyError: If too few clients stay.
        """
        self._gather()
        asked = {client.id: self._request_fields(request, client) for client in request.clients}
        about = {k: own for k, (own, _) in asked.items()}
        seconds = {k: float(own["seconds"]) for k, own in about.items()}
        total, stayed, up, down = self._added("scores", about, seconds, self.federation.num_blocks + 1)
        yield from score_replies(total, stayed, down, up)

    def _added(
        self, kind: str, about: Mapping[int, Fields], seconds: Mapping[int, float], size: int
    ) -> tuple[np.ndarray, tuple[int, ...], int, int]:
        """Return the sum of vectors of 64-bit numbers, the clients whose they are, and the bytes up and down."""
        group_of = self._start(kind, sorted(about), 64)
        full = {k: about[k] | one.for_client(k) for k, one in group_of.items()}

        def read(k: int, reply: Fields) -> np.ndarray:
            masked = reply.get("masked")
            if not isinstance(masked, bytes) or len(masked) != 8 * size:
                raise UpdateError(f"expected a masked vector of {size} numbers; found something else", "malformed")
            return np.frombuffer(masked, dtype="<u8")

        for k, vector in self._asked(kind, full, read, seconds):
            group_of[k].add(k, vector)
        stayed = tuple(sorted(k for one in self._open for k in one.stayed))
        down = sum(len(value) for own in full.values() for value in own.values() if isinstance(value, (bytes, str)))
        return self._opened(), stayed, 8 * size * len(stayed), down

    def _start(self, what: str, clients: Sequence[int], bits: int) -> dict[int, RemoteSum]:
        """Let clients exchange keys and shares, in groups, and return the sum of each; who does not answer has left.

        Raises:
            PrivacyError: If too few of a group answer.
        """
        self._open = []
        for group in groups_of(clients, self._agreed.settings.group):
            self._started += 1  # A purpose is used once, also where a round is attempted again.
            one = RemoteSum(f"{self.run}/{what}/{self._started}", bits)
            self._exchange(one, group)
            self._open.append(one)
        return {k: one for one in self._open for k in one.sealed}

    def _exchange(self, one: RemoteSum, group: Sequence[int]) -> None:
        about = {k: {"purpose": one.purpose, "client": k, "bits": one.bits} for k in group}
        one.keys = dict(self._asked("keys", about, lambda k, reply: read_keys(str(reply.get("keys")))))
        _check_enough(one.keys, len(group))
        everybody = json.dumps({str(k): write_keys(keys) for k, keys in sorted(one.keys.items())})
        about = {k: {"purpose": one.purpose, "keys": everybody} for k in one.keys}

        def read(k: int, reply: Fields) -> dict[int, str]:
            found = {int(v): text for v, text in read_object(reply.get("shares")).items()}
            if found.keys() != one.keys.keys() - {k}:
                raise UpdateError("expected shares for each other client; found others", "malformed")
            return found

        one.sealed = dict(self._asked("shares", about, read))
        _check_enough(one.sealed, len(group))

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
                self.note(f"client {one.client} leaves a secure sum: {one_line(error)}")

    def _opened(self) -> np.ndarray:
        """Return the sum over all groups."""
        parts = [self._result(one) for one in self._open]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _result(self, one: RemoteSum) -> np.ndarray:
        _check_enough(one.stayed, len(one.keys))
        stayed, order = json.dumps(sorted(one.stayed)), sorted(one.keys)

        def read(k: int, reply: Fields) -> Shares:
            revealed = read_shares(reply.get("shares"), len(order))
            if revealed.index != 1 + order.index(k):
                raise UpdateError("expected shares with the client's own index; found another", "malformed")
            return revealed

        about = {k: {"purpose": one.purpose, "stayed": stayed} for k in one.stayed}
        shares = [revealed for _, revealed in self._asked("unmask", about, read)]
        total = one.total if one.total is not None else np.zeros(0)
        return unmasked(total, one.stayed, one.keys, one.sealed, shares, one.purpose.encode(), one.bits)


def _answered(reply: Reply) -> Fields:
    """Return a reply that is an answer.

    Raises:
        UpdateError: If there is none, or it says what went wrong.
    """
    if isinstance(reply, Failure):
        raise UpdateError(reply.detail or reply.reason, reply.reason)
    if "error" in reply:
        raise UpdateError(str(reply.get("detail", reply["error"])))
    return reply


def _check_enough(clients: Iterable[int], of: int) -> None:
    found = len(set(clients))
    if found < threshold(of):
        raise PrivacyError(f"expected {threshold(of)} clients to stay in a secure sum; found {found}")
