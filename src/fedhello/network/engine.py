"""The engine that reaches clients over a network: it sends tasks, waits until deadlines, and collects replies.

A ``Link`` carries the messages; ``fedhello.network.flower`` implements it with Flower. A message has a kind:

    kind    to the client                                       back
    join    configuration, labels, id of the run, a probe       facts: name, data, budget and speed
    sums    client, adapter (none: the first)                   its head statistics
    scores  client, task, samples, batch size, seconds          sums of its squared gradients by block
    train   client, task, seconds                               update, or an error with its reason
    bye     outcome                                             nothing

A client has a stable name, and an id within the run: its position in the order of all names. Its node changes each time
that it starts; every new node is asked to join, and its name identifies the client. No wall clock is used, only the
order of messages and this machine's monotonic clock.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from fedhello.allocation.needs import needs
from fedhello.client.cost_model import Peak, StepCosts, predicted
from fedhello.client.scoring import ScoreReply, ScoreRequest, fitted_batch
from fedhello.client.settings import TrainingSettings, rank_kept
from fedhello.engine.observer import NOBODY, Observer, phase_after
from fedhello.engine.protocol import Contribution, Heads
from fedhello.engine.scores import score_reply
from fedhello.engine.wire import Expected, decode_sums, decode_tensors, encode_task, encode_tensors, expect
from fedhello.errors import EngineError, UpdateError
from fedhello.formatting import client_words
from fedhello.model.statistics import LONGEST_FEATURE, as_received, check_sums
from fedhello.network.deadlines import DeadlinePolicy
from fedhello.network.inbox import Inbox
from fedhello.network.messages import Failure, Fields, Link, Reply, one_line
from fedhello.network.refusals import said
from fedhello.network.registry import POLL, SLOWEST, Arrival, ClientInfo, ClientRegistry, not_admitted, taken
from fedhello.notes import Line
from fedhello.state import RoundReport
from fedhello.types import Adapter, Allocation, Client, Federation, Reason, Rejection, Task, Update

FAULTS: dict[str, Reason] = {"over budget": "over budget", "not finite": "not finite", "not allowed": "not allowed"}
"""Reasons that a client may give for an error, besides ``failed``."""


@dataclass(frozen=True)
class Sent:
    """A message that was sent."""

    client: int
    node: int
    message: str
    began: float
    deadline: float
    bytes_down: int
    expected: Expected | None = None
    allocation: Allocation | None = None
    note: str = ""


@dataclass
class RemoteEngine:
    """Reaches clients over a link.

    Attributes:
        link: Carries the messages.
        federation: The clients.
        members: The facts that each client reported when it joined, by id.
        settings: The settings of local training.
        run: Id of the run.
        lobby: The registry of connected nodes.
        costs: The costs of steps; None without a prediction.
        sums_like: Tensors of the shapes and dtypes of a client's head statistics; empty without such a head.
        longest_feature: Upper bound on ‖x‖ of the features in them.
        scoring: The peak bytes of passes for Fisher scores; None without a prediction.
        pace: The deadlines of clients.
        patience: Seconds that a round waits for its quorum of clients to be connected.
        note: Called with messages for the user.
        clock: A monotonic clock, in seconds.
        wait: Waits some seconds.
        node_of: Client → its connected node.
        rates: Client → measured lower bound on its bytes per second.
        happened: See ``Engine``.
        observer: See ``Engine``.
    """

    link: Link
    federation: Federation
    members: Sequence[ClientInfo]
    settings: TrainingSettings
    run: str
    lobby: ClientRegistry
    costs: StepCosts | None = None
    sums_like: Mapping[str, Tensor] = field(default_factory=dict)
    longest_feature: float = LONGEST_FEATURE
    scoring: Peak | None = None
    pace: DeadlinePolicy = field(default_factory=DeadlinePolicy)
    patience: float = 300.0
    note: Callable[[str], None] = lambda line: None
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    node_of: dict[int, int] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    happened: Sequence[str] = ()
    observer: Observer = NOBODY

    def called(self, client: int) -> str:
        """Return what to call a client: its id and its name."""
        return client_words(client, self.members[client].name)

    def trained_heads(self, report: RoundReport) -> Heads:
        """Return no heads: personal heads are not supported, since the server cannot evaluate them."""
        return {}

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        """Let the clients of a round train at the same time, and yield their updates or rejections, by ascending id.

        The round ends as soon as ``clients_per_round`` updates have arrived; slower clients are late. One update is in
        memory at a time, the others are on disk.
        """
        self._gather()
        with TemporaryDirectory(prefix="fedhello-") as folder:
            sent = [self._send_task(task) for task in tasks]
            replies = self._collect(sent, Path(folder))
            for one in sent:
                yield self._read(one, replies[one.client], Path(folder))

    def _gather(self) -> None:
        """Wait, within the patience, until as many clients are connected as a round needs."""
        end = self.clock() + self.patience
        self.look_around()
        if len(self.node_of) < self.federation.quorum:
            words = f"waiting for clients: {len(self.node_of)} of {len(self.members)} are connected"
            self.note(Line(words, event="waiting", connected=len(self.node_of), wanted=len(self.members)))
        while len(self.node_of) < self.federation.quorum and self.clock() < end:
            self.wait(POLL)
            self.look_around()

    def _send_task(self, task: Task, more: Fields | None = None, bytes_up: int | None = None) -> Sent:
        # Everything is sent: a client may have restarted since the last message.
        payload = encode_task(replace(task, known=frozenset(), missed={}))
        member = self.members[task.client]
        kept = rank_kept(task, self.settings)
        expected = expect(task, member.samples, self.run, len(payload), kept=kept)
        # Only shapes are kept; values would keep the adapter of every client in memory.
        expected = replace(expected, tensors={name: value.to("meta") for name, value in expected.tensors.items()})
        seconds = self.seconds(task, len(payload) + (expected.limit if bytes_up is None else bytes_up))
        fields = {"client": task.client, "task": payload, "seconds": seconds, "run": self.run, **(more or {})}
        one = self._send(task.client, "train", fields, seconds, group=str(task.round))
        if one.message:
            self.observer.on_client(task.client, "training")
        return replace(one, expected=expected, allocation=task.allocation)

    def seconds(self, task: Task, bytes_: int) -> float:
        """Return the seconds until the deadline of a task whose messages have ``bytes_`` bytes."""
        client = self.federation.by_id[task.client]
        costs = self.federation.costs
        flops = needs(costs[client.tier], task.allocation).flops if costs else None
        return self.pace.seconds(bytes_, self._rate(task.client), flops, self.members[task.client].speed)

    def _rate(self, client: int) -> float:
        return self.rates.get(client, SLOWEST)

    def _send(self, client: int, kind: str, fields: Fields, seconds: float, group: str = "") -> Sent:
        began = self.clock()
        node = self.node_of.get(client, 0)
        message = self.link.send(node, kind, fields, group) if node else ""
        bytes_down = sum(len(value) for value in fields.values() if isinstance(value, bytes))
        return Sent(client, node, message, began, began + seconds, bytes_down)

    def _collect(self, sent: Sequence[Sent], folder: Path) -> dict[int, Update | Rejection]:
        """Return, by client, its update without tensors, which are in its file in the folder, or its rejection."""
        expected = {one.client: one.expected for one in sent if one.expected is not None}
        round_ = max((one.round for one in expected.values()), default=0)
        inbox = Inbox(round_, expected, self.federation.clients_per_round)
        found: dict[int, Update | Rejection] = {}
        for one, reply in self._replies(sent):
            found[one.client] = self._put_by(one, reply, inbox, folder)
            self.observer.on_client(one.client, phase_after(found[one.client]))
            if inbox.is_full:
                break
        return {rejection.client: rejection for rejection in inbox.close()} | found

    def _put_by(self, one: Sent, reply: Reply, inbox: Inbox, folder: Path) -> Update | Rejection:
        if isinstance(reply, Failure):
            return _rejected(one, reply.reason, one_line(reply.detail))
        if "error" in reply:
            self._heed(one, reply)
            return _rejected(one, FAULTS.get(str(reply["error"]), "failed"), said(reply))
        payload = reply.get("update")
        if not isinstance(payload, bytes) or one.expected is None:
            return _rejected(one, "malformed", "expected an update; there is none in the reply")
        update = inbox.take(one.client, payload)
        if isinstance(update, Rejection):
            return update
        self._observe(one, len(payload), update.metrics["seconds"])
        (folder / str(one.client)).write_bytes(encode_tensors(update.tensors))
        return replace(update, tensors={})

    def _heed(self, one: Sent, reply: Fields) -> None:
        """Ask a restarted client to join again."""
        if reply.get("error") == "join first":
            self.node_of.pop(one.client, None)
            self.lobby.ask_again(one.node)

    def _read(self, one: Sent, found: Update | Rejection, folder: Path) -> Update | Rejection:
        if isinstance(found, Rejection):
            return found
        file = folder / str(one.client)
        update = replace(found, tensors=decode_tensors(file.read_bytes()))  # checked when it came
        file.unlink()
        return update if one.allocation is None else predicted(update, one.allocation, self.costs)

    def _observe(self, one: Sent, bytes_up: int, busy: float) -> None:
        """Update a client's rate; one slow reply at most halves it."""
        way = max(self.clock() - one.began - busy, POLL)
        seen = (one.bytes_down + bytes_up) / way
        self.rates[one.client] = max(seen, self._rate(one.client) / 2, SLOWEST)

    def _replies(self, sent: Sequence[Sent]) -> Iterator[tuple[Sent, Reply]]:
        """Yield each message with its reply, in the order of arrival, or with a failure after its deadline."""
        waiting = {one.client: one for one in sent}
        others = sum(bool(one.message) for one in sent) - 1
        times: list[float] = []
        try:
            while waiting:
                news = False
                for one in list(waiting.values()):
                    reply = self._reply(one, self.pace.among(times, others))
                    if reply is not None:
                        del waiting[one.client]
                        if not isinstance(reply, Failure) and "error" not in reply:
                            times.append(self.clock() - one.began)
                        news = True
                        yield one, reply
                if waiting and not news:
                    self.wait(POLL)
                    self.look_around()
        finally:
            for one in waiting.values():
                self._forget(one)

    def _forget(self, one: Sent) -> None:
        if one.message:
            self.link.forget(one.message)

    def _reply(self, one: Sent, most: float) -> Reply | None:
        if not one.message:
            return Failure("lost", "it is not connected")
        reply = self.link.reply(one.message)
        stated = one.deadline - one.began
        if reply is None and self.clock() - one.began >= min(stated, most):
            self._forget(one)
            others = "" if stated <= most else f", far longer than the others take ({stated:.0f} s by what it states)"
            return Failure("late", f"no reply within {min(stated, most):.0f} s{others}")
        if reply is None and one.node not in self.lobby.connected:
            self._forget(one)
            return Failure("lost", "it disconnected")
        return reply

    def look_around(self) -> None:
        """Update the connected nodes, and admit returning clients."""
        arrivals = self.lobby.look()
        self.node_of = {k: node for k, node in self.node_of.items() if node in self.lobby.connected}
        self.observer.on_connected({k: self.members[k].name for k in sorted(self.node_of)})
        for arrival in arrivals:
            complaint = self._readmit(arrival)
            if complaint is not None and not arrival.seen:
                self.note(not_admitted(arrival.name, complaint))

    def _readmit(self, arrival: Arrival) -> str | None:
        """Admit a returning client and return None; else return why not."""
        facts = arrival.facts
        if isinstance(facts, str):
            return facts
        k = next((k for k, member in enumerate(self.members) if member.name == facts.name), None)
        if k is None or not self.members[k].same_client(facts):
            return f"{facts.name!r} did not take part, with this data, from the start"
        if self.node_of.get(k, arrival.node) != arrival.node:
            self.lobby.keep(arrival)
            return taken(facts.name)
        self.node_of[k] = arrival.node
        self.rates[k] = arrival.rate
        return None

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterator[Contribution]:
        """Yield the head statistics of some clients, or of all, in ascending id; see ``Engine``.

        A client that does not answer is left out, with a note.

        Raises:
            EngineError: If no client answers.
        """
        payload = {} if adapter is None else {"adapter": encode_tensors(adapter.tensors)}
        asked = range(len(self.members)) if clients is None else sorted(clients)
        sent = [
            self._send(k, "sums", {"client": k, "run": self.run, **payload}, self._sums_seconds(k, payload))
            for k in asked
        ]
        found: dict[int, Contribution] = {}
        for one, reply in self._replies(sent):
            try:
                found[one.client] = self._sums(one, reply)
            except UpdateError as error:
                self.note(f"the head is solved without {self.called(one.client)}: {error}")
        if not found:
            raise EngineError("expected head statistics from the clients; none came")
        yield from (found[k] for k in sorted(found))

    def _sums_seconds(self, k: int, payload: Fields) -> float:
        """Return the deadline of head statistics, which take less than a round of training."""
        size = sum(value.nbytes for value in self.sums_like.values()) + sum(map(len, payload.values()))
        client = self.federation.by_id.get(k)
        tier = 0 if client is None else client.tier
        flops = self.federation.costs[tier].flops_outside if self.federation.costs else None
        return self.pace.seconds(size, self._rate(k), flops, self.members[k].speed)

    def _sums(self, one: Sent, reply: Reply) -> Contribution:
        if isinstance(reply, Failure):
            raise UpdateError(f"expected its sums; {one_line(reply.detail)}", reply.reason)
        payload = reply.get("sums")
        if not isinstance(payload, bytes):
            raise UpdateError(f"expected its sums; {said(reply) if 'error' in reply else 'found something else'}")
        sums = as_received(decode_sums(payload, self.sums_like))
        member = self.members[one.client]
        check_sums(sums, member.samples, self.longest_feature, member.classes)
        return Contribution((one.client,), sums, len(payload), one.bytes_down)

    def block_scores(self, request: ScoreRequest) -> Iterator[ScoreReply]:
        """Yield the reply of each requested client with its sums for Fisher scores, in ascending id."""
        self._gather()
        sent = [self._send_request(request, client) for client in request.clients]
        most = {client.id: request.most(client.samples) for client in request.clients}
        found = {one.client: self._scores(one, reply, most[one.client]) for one, reply in self._replies(sent)}
        yield from (found[k] for k in sorted(found))

    def _send_request(self, request: ScoreRequest, client: Client) -> Sent:
        fields, note = self._request_fields(request, client)
        return replace(self._send(client.id, "scores", fields, fields["seconds"]), note=note)

    def _request_fields(self, request: ScoreRequest, client: Client) -> tuple[Fields, str]:
        """Return the fields of a message scores, and a note on the batch size."""
        task, L = request.task(client.id), self.federation.num_blocks
        payload = encode_task(task)
        batch_size, note = fitted_batch(self.scoring, client.budget.memory, self.members[client.id].widest[1])
        # Scoring takes less than a round that trains all blocks.
        seconds = self.seconds(replace(task, allocation=Allocation(tuple(range(L)))), len(payload))
        fields = {"client": client.id, "task": payload, "samples": request.samples, "batch_size": batch_size}
        return {**fields, "seconds": seconds, "run": self.run}, note

    def _scores(self, one: Sent, reply: Reply, most: int) -> ScoreReply:
        if isinstance(reply, Failure):
            return ScoreReply((one.client,), None, f"{reply.reason}: {one_line(reply.detail)}", one.bytes_down)
        self._heed(one, reply)
        payload = reply.get("scores")
        if not isinstance(payload, bytes):
            why = said(reply) if "error" in reply else "found something else"
            return ScoreReply((one.client,), None, f"expected its sums; {why}", one.bytes_down)
        return score_reply(one.client, payload, self.federation.num_blocks, most, one.bytes_down, one.note)

    def goodbye(self, outcome: str) -> None:
        """Tell all clients that the run is over, and wait briefly for the messages to arrive."""
        sent = [self._send(k, "bye", {"outcome": outcome}, self.pace.floor) for k in sorted(self.node_of)]
        for _ in self._replies([one for one in sent if one.message]):
            pass


def _rejected(one: Sent, reason: Reason, detail: str) -> Rejection:
    round_ = 0 if one.expected is None else one.expected.round
    return Rejection(one.client, round_, reason, detail, bytes_down=one.bytes_down)
