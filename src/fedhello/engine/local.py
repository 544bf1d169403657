"""The local engine: all clients train on this machine with one model in memory, one after the other or in parallel."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fedhello.client.boundary import BoundaryCache
from fedhello.client.cost_model import Peak, StepCosts, predicted
from fedhello.client.first_step import known_steps
from fedhello.client.loss import LOSSES
from fedhello.client.memory import gpu_limit
from fedhello.client.private_training import private_training
from fedhello.client.scoring import BlockSums, ScoreReply, ScoreRequest, as_shares, client_sums, fitted_batch
from fedhello.client.settings import TrainingSettings, rank_kept, with_rate
from fedhello.client.training import Assignment, Trained, local_training
from fedhello.data.batches import Samples
from fedhello.engine.observer import NOBODY, Observer, StepBoard
from fedhello.engine.protocol import Contribution, Heads
from fedhello.engine.replies import Reply, packed, unpacked
from fedhello.engine.scores import score_reply
from fedhello.engine.sizes import task_bytes
from fedhello.engine.wire import decode, encode_tensors, encode_update, expect
from fedhello.engine.workers import IN_TURN, Said, Workers, in_parallel
from fedhello.errors import UpdateError
from fedhello.factors import without_tail
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import pooled_features
from fedhello.model.number_type import rounded_weights
from fedhello.model.private_sums import PrivateStatistics, private_sums
from fedhello.model.statistics import DEFAULT_STATISTICS, HeadSums, StatisticsSettings, as_sent, head_sums
from fedhello.privacy.rounds import clipped_update
from fedhello.randomness import generator
from fedhello.state import RoundReport
from fedhello.types import (
    MERGED,
    MERGED_A,
    MERGED_B,
    Adapter,
    Client,
    Federation,
    NoisySteps,
    Reason,
    Rejection,
    Task,
    Update,
)

LONGEST_FAULT = 300
"""The most characters of an error's text that are kept."""

logger = logging.getLogger("fedhello")


@dataclass
class LocalEngine:
    """Trains clients on their own data with one shared model; only the adapter is copied per client.

    Updates pass the same encoding and checks as on a network, so the counted bytes are those of a network.

    Attributes:
        model: The model, used by one client at a time.
        federation: The clients.
        data: Client → its training samples.
        settings: The settings of local training, except for the learning rate of a task that states one.
        costs: The costs of steps; None without a prediction.
        scoring: The peak bytes of passes for Fisher scores; None without a prediction.
        dropout: Probability that an invited client is lost: a simulation, with its own random stream.
        run: Id of the run, contained in every update.
        statistics: Settings of the head statistics.
        private: Settings of the contributions to a private release; None sends plain head statistics.
        together: The samples of all clients, and each client's positions in them. Features are then computed in one
            pass over all samples and do not depend on the partition. None computes them client by client.
        happened: See ``Engine``.
        workers: How many clients train at the same time.
        boundary: Activations of clients whose budget has a cache.
        observer: See ``Engine``.
    """

    model: LoraModel
    federation: Federation
    data: Mapping[int, Samples]
    settings: TrainingSettings
    costs: StepCosts | None = None
    scoring: Peak | None = None
    dropout: float = 0.0
    run: str = "local"
    statistics: StatisticsSettings = DEFAULT_STATISTICS
    private: PrivateStatistics | None = None
    together: tuple[Samples, Mapping[int, np.ndarray]] | None = None
    happened: Sequence[str] = ()
    workers: Workers = IN_TURN
    boundary: BoundaryCache = field(default_factory=BoundaryCache)
    observer: Observer = NOBODY
    _initial_head: dict[str, Tensor] = field(init=False)
    _trained_heads: dict[int, dict[str, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self._initial_head = self.model.read(self.model.head_names)
        self._trained_heads = {}

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        """Train the clients of a round, in ascending id, and yield their replies one by one; see ``Engine``.

        Any exception of a client becomes its ``Rejection``.
        """
        clients = self.federation.by_id
        self._trained_heads = {}
        if self.workers.count > 1:
            yield from self._in_parallel(tasks, heads)
            return
        for task, absence in self._arrivals(tasks):
            yield self._reply(task, clients[task.client], heads) if absence is None else absence

    def _in_parallel(self, tasks: Iterable[Task], heads: Heads | None) -> Iterator[Update | Rejection]:
        """Do the same in processes of their own; one that ends without a reply is its client's rejection."""
        absent: deque[Rejection] = deque()
        board = StepBoard(len(self.federation.clients))

        def present() -> Iterator[tuple[Task, float]]:
            first = True
            for task, absence in self._arrivals(tasks):
                if absence is None:
                    if first:
                        self._prepare(task)
                    first = False
                    board.add(task.client)
                    yield task, self._size(task)
                else:
                    absent.append(absence)

        def work(task: Task) -> bytes:
            known = len(known_steps(self.model))
            self.observer = board  # in this process alone, which is a copy
            with (said := Said()).collected():
                reply = self._reply(task, self.federation.by_id[task.client], heads)
            measured = dict(islice(known_steps(self.model).items(), known, None))
            return packed(Reply(reply, self._trained_heads.get(task.client, {}), said, measured))

        look = None if self.observer is NOBODY else partial(board.tell, self.observer)
        for task, payload in in_parallel(present(), work, self.workers, look):
            while absent and absent[0].client < task.client:
                yield absent.popleft()
            yield self._gone(task, payload) if isinstance(payload, str) else self._returned(payload)
        yield from absent

    def _prepare(self, task: Task) -> None:
        """Merge into frozen weights what a round's first task merges, and round them: else each process would."""
        if any(name.endswith((MERGED, MERGED_A, MERGED_B)) for name in task.adapter.tensors):
            self.model.write(task.adapter.tensors)
        with rounded_weights(self.model, self.settings.autocast == "bfloat16"):
            pass

    def _size(self, task: Task) -> float:
        """Return the expected work of a task: a forward pass, and a backward pass down to the lowest trained block."""
        blocks, L = task.allocation.blocks, self.federation.num_blocks
        return self.federation.by_id[task.client].samples * (2 * L - min(blocks, default=L))

    def _returned(self, payload: bytes) -> Update | Rejection:
        reply = unpacked(payload)
        reply.said.say()
        known_steps(self.model).update(reply.steps)
        if reply.head:
            self._trained_heads[reply.found.client] = dict(reply.head)
        return reply.found

    def _gone(self, task: Task, why: str) -> Update | Rejection:
        """Return the reply for a client whose process left none."""
        bytes_down = task_bytes(task)
        if task.clip is not None and task.steps is None:
            return self._nothing(task, why, bytes_down)
        return Rejection(task.client, task.round, "lost", f"nothing came back: {why}", bytes_down)

    def trained_heads(self, report: RoundReport) -> Heads:
        """Return the own heads of the clients whose updates counted in the last round; empty if it failed."""
        counted = set() if report.failed is not None else {client.client for client in report.clients}
        return {k: head for k, head in self._trained_heads.items() if k in counted}

    def _arrivals(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Rejection | None]]:
        """Yield each task with a rejection if its client is simulated as lost or late, else None."""
        if self.federation.over_selection == 1:  # then no client can be late, and tasks can be processed one by one
            yield from ((task, self._lost(task)) for task in tasks)
            return
        found = [(task, self._lost(task)) for task in tasks]
        arriving = [task.client for task, lost in found if lost is None]
        late = set(self._order(found[0][0], arriving)[self.federation.clients_per_round :]) if found else set()
        for task, lost in found:
            yield task, self._absent(task, "late", "enough others came first") if task.client in late else lost

    def _lost(self, task: Task) -> Rejection | None:
        if not self.dropout:
            return None
        chance = generator(self.federation.seed, "dropout of clients", task.round, task.attempt, task.client).random()
        return self._absent(task, "lost", "nothing came back") if chance < self.dropout else None

    def _order(self, task: Task, clients: Sequence[int]) -> list[int]:
        """Return the simulated order of arrival of clients in a task's round."""
        rng = generator(self.federation.seed, "order of arrival", task.round, task.attempt)
        return [clients[i] for i in rng.permutation(len(clients))]

    def _absent(self, task: Task, reason: Reason, detail: str) -> Rejection:
        return Rejection(task.client, task.round, reason, detail, task_bytes(task))

    def _reply(self, task: Task, client: Client, heads: Heads | None) -> Update | Rejection:
        """Train one client and pass its update through the same encoding and checks as on a network."""
        bytes_down = task_bytes(task)
        if task.steps is not None:
            return self._private_reply(task, client, task.steps, bytes_down)
        names, start = self._start(task, heads)
        return self._answered(task, start, bytes_down, lambda: self._train_one(task, client, names, start))

    def _start(self, task: Task, heads: Heads | None) -> tuple[tuple[str, ...], Mapping[str, Tensor]]:
        """Return the names of what a client trains, and its own head, if any."""
        own = {} if heads is None else heads.get(task.client, self._initial_head)
        return (*task.adapter.names(task.allocation), *own), own

    def _answered(
        self, task: Task, personal: Iterable[str], bytes_down: int, train: Callable[[], Trained]
    ) -> Update | Rejection:
        """Return the reply of a client that trains; of what it trains, it keeps what is personal."""
        client = self.federation.by_id[task.client]
        try:
            values, metrics = train()
            head = {name: values.pop(name) for name in personal}
            payload = self.encoded(task, Update(client.id, task.round, client.samples, values, metrics))
        except Exception as error:  # no error of one client may end the run
            if task.clip is not None:
                return self._nothing(task, error, bytes_down)
            return Rejection(client.id, task.round, *_fault(error), bytes_down)
        own_loss = self.settings.loss not in LOSSES.own
        kept = rank_kept(task, self.settings)
        update = decode(payload, expect(task, client.samples, self.run, bytes_down, own_loss, kept))
        if isinstance(update, Rejection):
            return self._nothing(task, update.detail, bytes_down) if task.clip is not None else update
        if head:
            self._trained_heads[client.id] = head
        if task.clip is not None:
            return self._sized(clipped_update(update, task))
        return predicted(update, task.allocation, self.costs)

    def encoded(self, task: Task, update: Update) -> bytes:
        """Return an update as it is sent: of the ranks that the client keeps alone."""
        if self.settings.tail_least is not None:
            shrink, least = self.settings.tail_from, self.settings.tail_least
            update = replace(update, tensors=without_tail(update.tensors, task.adapter.tensors, shrink, least))
        return encode_update(update, self.run)

    def _private_reply(self, task: Task, client: Client, how: NoisySteps, bytes_down: int) -> Update | Rejection:
        """Train one client by steps that protect its samples; what it sends holds nothing else of them."""
        assert task.clip is not None
        names = task.adapter.names(task.allocation)
        self.model.write(task.adapter.tensors)
        work, settings = self._assignment(task, client, names), with_rate(self.settings, task.lr)
        try:
            with gpu_limit(self.model.device, client.budget.memory):
                values = private_training(self.model, work, settings, how, task.clip)
        except Exception as error:  # no error of one client may end the run
            return Rejection(client.id, task.round, *_fault(error), bytes_down)
        return self._sized(Update(client.id, task.round, 1, values, {}, bytes_down))

    def _nothing(self, task: Task, why: object, bytes_down: int) -> Update:
        """Return a contribution of no change, of a client that fails under differential privacy.

        That it fails, and why, follows from its data; the reason stays in this client's log.
        """
        logger.warning("client %d contributes no change to round %d: %s", task.client, task.round, why)
        start = {name: task.adapter.tensors[name] for name in task.adapter.names(task.allocation)}
        return self._sized(Update(task.client, task.round, 1, start, {}, bytes_down))

    def _sized(self, update: Update) -> Update:
        """Return an update with its bytes as it is, without what was left out of it."""
        return replace(update, bytes_up=len(encode_update(update, self.run)))

    def _train_one(self, task: Task, client: Client, names: tuple[str, ...], head: Mapping[str, Tensor]) -> Trained:
        """Train one client from a task and its own head, if any; its head does not stay in the model."""
        self.model.write({**head, **task.adapter.tensors})
        work = self._assignment(task, client, names)
        try:
            with gpu_limit(self.model.device, client.budget.memory):
                return local_training(self.model, work, with_rate(self.settings, task.lr))
        except torch.OutOfMemoryError as error:
            raise UpdateError(
                f"expected client {client.id} in round {task.round} to train within {client.budget.memory} bytes; the "
                f"device has no more: {str(error).splitlines()[0]} Lower train.batch_size or the tier's memory.",
                "over budget",
            ) from error
        finally:
            # The server scores and saves the model next, which must not contain a client's private head.
            self.model.write(self._initial_head if head else {})

    def _assignment(self, task: Task, client: Client, names: tuple[str, ...]) -> Assignment:
        return Assignment(
            client=client.id,
            round=task.round,
            names=names,
            data=self.data[client.id],
            classes=client.classes,
            seed=self.federation.seed,
            policies=task.allocation.policies,
            absent=task.allocation.absent,
            correction=task.correction,
            boundary=None if client.budget.cache is None else self.boundary,
            cache=client.budget.cache or 0,
            told=partial(self.observer.on_step, client.id),
        )

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterator[Contribution]:
        """Yield the head statistics of some clients, or of all, in ascending id; see ``Engine``."""
        bytes_down = 0
        if adapter is not None:
            self.model.write(adapter.tensors)
            bytes_down = len(encode_tensors(adapter.tensors))
        for k, features in self._features(sorted(self.data if clients is None else clients)):
            labels = torch.from_numpy(self.data[k].labels)
            sums = self._head_sums(features, labels)
            yield Contribution((k,), sums, len(encode_tensors(as_sent(sums))), bytes_down)

    def _head_sums(self, features: Tensor, labels: Tensor) -> HeadSums:
        if self.private is not None:
            return private_sums(features, labels, self.model.num_labels, self.private)
        return head_sums(features, labels, self.model.num_labels, self.statistics)

    def _features(self, clients: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield the features of each client's samples."""
        bfloat16 = self.settings.autocast == "bfloat16"
        if self.together is None:
            yield from ((k, pooled_features(self.model, self.data[k], bfloat16)) for k in clients)
            return
        samples, parts = self.together
        positions = np.sort(np.concatenate([parts[k] for k in clients]))
        features = pooled_features(self.model, samples.subset(positions), bfloat16)
        for k in clients:
            yield k, features[torch.from_numpy(np.searchsorted(positions, parts[k]))]

    def block_scores(self, request: ScoreRequest) -> Iterator[ScoreReply]:
        """Yield the reply of each requested client with its sums for Fisher scores, in ascending id.

        Any exception of a client becomes its reply without sums. Personal heads are not used: scores are computed with
        the head in the model.
        """
        for client in request.clients:
            task = request.task(client.id)
            lost = self._lost(task)
            bytes_down = task_bytes(task)
            if lost is not None:
                yield ScoreReply((client.id,), None, lost.detail, bytes_down)
                continue
            if request.private:
                yield self._private_scores(task, request, bytes_down)
                continue
            longest = int(self.data[client.id].lengths().max())
            batch_size, note = fitted_batch(self.scoring, client.budget.memory, longest)
            try:
                payload = encode_tensors(self.score(task, request.samples, batch_size).tensors)
            except Exception as error:  # no error of one client may end the run
                yield ScoreReply((client.id,), None, _fault(error)[1], bytes_down)
                continue
            most = request.most(client.samples)
            yield score_reply(client.id, payload, self.federation.num_blocks, most, bytes_down, note)

    def _private_scores(self, task: Task, request: ScoreRequest, bytes_down: int) -> ScoreReply:
        """Return one client's shares for Fisher scores; zeros if it fails, since that follows from its data."""
        sums = BlockSums(torch.zeros(self.federation.num_blocks, dtype=torch.float64), torch.ones(()).double())
        try:
            sums = as_shares(self.score(task, request.samples, 1))
        except Exception as error:  # its reason stays in this client's log
            logger.warning("client %d contributes no scores to round %d: %s", task.client, task.round, error)
        return ScoreReply((task.client,), sums, "", bytes_down, len(encode_tensors(sums.tensors)))

    def score(self, task: Task, samples: int, batch_size: int) -> BlockSums:
        """Return one client's sums for the Fisher scores, of at most ``samples`` samples; see ``client_sums``."""
        client = self.federation.by_id[task.client]
        self.model.write(task.adapter.tensors)
        with gpu_limit(self.model.device, client.budget.memory):
            who = (self.federation.seed, task.round, client.id)
            return client_sums(self.model, self.data[client.id], who, samples, batch_size)


def _fault(error: Exception) -> tuple[Reason, str]:
    """Return why a client failed, as a kind of reason and a sentence."""
    if isinstance(error, UpdateError):
        return error.reason, str(error)
    return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_FAULT]}"
