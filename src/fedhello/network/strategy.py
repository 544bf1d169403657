"""fedhello as the strategy of a user's own Flower app: it allocates and aggregates.

    strategy = FedHello(model, "fed-hello", proxy=loader)        in the place of FedAvg()
    result = strategy.start(grid=grid, initial_arrays=arrays(model), num_rounds=20)

A round is Algorithm 1 (``fedhello.algorithm``), which Flower splits in two: ``configure_train`` runs it without replies
to get the tasks, and ``aggregate_train`` runs it again with the replies. Allocations and Fisher scores are kept in
between, so both calls have the same ones.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from torch import nn

from fedhello import algorithm
from fedhello.aggregation.bound import MAX_NORM
from fedhello.aggregation.robust import Defence, defended
from fedhello.aggregation.share import MAX_SHARE
from fedhello.client.cost_model import Shape
from fedhello.client.scoring import BlockSums, mean_scores
from fedhello.errors import ConfigError, EngineError, ModelError, UpdateError
from fedhello.method import Method
from fedhello.network.flower_client import Loader, adapted, block_sums
from fedhello.network.flower_nodes import Node, Nodes, read_budget
from fedhello.network.flower_planning import Planning, usable
from fedhello.network.flower_records import (
    REASONS,
    RECORD,
    SCORE,
    Asked,
    adapter_of,
    alike,
    as_arrays,
    bytes_of,
    describe_task,
    read_tensors,
    samples_of,
    sums_of,
)
from fedhello.network.messages import one_line
from fedhello.notes import logger
from fedhello.randomness import generator
from fedhello.state import RoundReport, RunState
from fedhello.types import Adapter, Allocation, Budget, Client, Federation, Reason, Rejection, Task, Update

FLOWERS_LOG = logging.getLogger("flwr")
"""Flower's logger, which users of Flower apps read."""


class FedHello(FedAvg):
    """A strategy with Fed-HeLLo, or another method of fedhello, instead of Flower's ``FedAvg``.

    The arguments of ``FedAvg`` have the same meaning: how many nodes train and evaluate, and how metrics are combined.
    A client's reply counts if it holds exactly the allocated tensors, in their shapes, finite, and a sample count of at
    least 1 under ``weighted_by_key``; otherwise the client is treated as absent. A round with fewer updates than the
    quorum does not change the adapter, nor does a round after which the Fisher scores on ``proxy`` are not finite.

    Attributes:
        state: The state of the run.
        reports: The report of each round, with the rejected clients and reasons.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method = "fed-hello",
        *,
        options: Mapping[str, Any] | None = None,
        budgets: Mapping[Any, Mapping[str, Any] | Budget] | None = None,
        proxy: Loader | None = None,
        batch: Shape | None = None,
        moments: int = 2,
        quorum: float = 0.5,
        most_samples: int | None = None,
        max_share: float | None = MAX_SHARE,
        max_norm: float | None = MAX_NORM,
        wait: float = 600.0,
        seed: int = 0,
        **fedavg: Any,
    ) -> None:
        """Make a strategy.

        Args:
            model: The global model, made by ``with_lora``; it is used for Fisher scores and for planning.
            method: The name of a method, or a ``Method``.
            options: Options of the method, such as ``{"warmup": 5}``.
            budgets: Name or partition id → budget of a node that reports none itself, such as ``{"blocks": 2}`` or
                ``{"memory": "4GB"}``; under None the budget of all others.
            proxy: The server's samples for Fisher scores, if the method computes them on the server, after every
                round.
            batch: Samples and tokens of the widest batch in ``train()``, for budgets in bytes; tokens are 1 for images.
            moments: Values that ``train()``'s optimiser keeps per trained value: 2 for Adam, 1 for SGD with momentum.
            quorum: The share of a round's clients whose updates must count, in (0, 1].
            most_samples: Upper bound on the samples by which a client is weighted; None for no bound.
            max_share: How many times the upper quartile of the sample counts that clients have stated so far a client
                may weigh, ≥ 1; None for no bound.
            max_norm: How many times as far as is usual an update may move the model, > 1: as the median of its round,
                or where fewer than three answer, of earlier rounds' updates, if these were three; see
                ``defence.max_norm``. None for no bound.
            wait: Seconds to wait for nodes.
            seed: Seed of all random choices of fedhello.
            fedavg: Further arguments of ``FedAvg``.

        Raises:
            ConfigError: If the method does not work here, or an option, a budget or the quorum is wrong.
            ModelError: If the model holds no adapter.
        """
        super().__init__(**fedavg)
        if not isinstance(quorum, (int, float)) or not 0 < quorum <= 1:
            raise ConfigError(f"expected quorum as a share above 0 and up to 1; found {quorum!r}")
        if most_samples is not None and (not isinstance(most_samples, int) or most_samples < 1):
            raise ConfigError(f"expected most_samples as a whole number of at least 1, or None; found {most_samples!r}")
        if max_share is not None and not (isinstance(max_share, (int, float)) and max_share >= 1):
            raise ConfigError(f"expected max_share as a number of at least 1, or None; found {max_share!r}")
        if max_norm is not None and not (isinstance(max_norm, (int, float)) and max_norm > 1):
            raise ConfigError(f"expected max_norm as a number above 1, or None; found {max_norm!r}")
        read = {key: read_budget(stated, f"budgets[{key!r}]") for key, stated in (budgets or {}).items()}
        self._of = adapted(model)
        self._row, bound = usable(method, options or {})
        self._method = defended(bound, Defence(max_share=max_share, max_norm=max_norm))
        self._proxy, self._most_samples, self._seed = proxy, most_samples, seed
        self._scores_here = self._row.uses_scores and self._method.scoring.source == "proxy"
        if self._scores_here and proxy is None:
            raise ConfigError(
                f"expected proxy=, batches for the Fisher scores that {self._row.name} asks for; found none. Or let "
                'clients score, with options={"scores": "clients"} and fedhello.flower.register(app, data=...).'
            )
        self._planning = Planning(self._row, self._method, self._of.lora, batch, moments, quorum, seed)
        self._nodes = Nodes(read, wait, self._planning.complaint, self._planning.limited)
        self._asked: Asked | None = None
        self._scored: tuple[ArrayRecord | None, tuple[float, ...]] = (None, ())
        self._passed: frozenset[Node] = frozenset()
        self._stated: dict[int, int] = {}  # client → the samples that it stated last
        self.state = algorithm.init(self._of.lora.snapshot(share_head=True))
        self.reports: list[RoundReport] = []

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run as ``FedAvg`` does, from the beginning, independent of earlier runs of this strategy.

        Raises:
            ClientsError: If there are not enough nodes in time.
            ConfigError: If the method cannot run with their budgets.
            ModelError: If the arrays do not fit the model, or Fisher scores on ``proxy`` cannot be computed.
        """
        self.state = algorithm.init(adapter_of(self._of.lora, initial_arrays))
        self.reports, self._asked, self._scored, self._passed = [], None, (None, ()), frozenset()
        self._nodes.forget()
        self._stated.clear()
        return super().start(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message per client of the round, with its start values and its allocation.

        Raises:
            ClientsError: If there are not enough nodes in time.
            ConfigError: If the method cannot run with their budgets.
        """
        if self.fraction_train == 0.0:
            return []
        nodes, federation = self._federation(grid)
        self.state = replace(self.state, adapter=adapter_of(self._of.lora, arrays))
        if self._scores_here and self._scored[0] is not arrays:
            self._scored = arrays, self._score_here(self.state.adapter)
        tasks: list[Task] = []

        def nobody(asked: Iterable[Task]) -> tuple[Update, ...]:
            tasks.extend(asked)
            return ()

        def score(state: RunState, clients: tuple[Client, ...]) -> tuple[float, ...]:
            return self._scored[1] if self._scores_here else self._score(state, clients, nodes, grid)

        _, planned = algorithm.round(self.state, federation, self._method, nobody, score)
        config["server-round"] = server_round
        node_of = {node.client: node.node for node in nodes}
        adapters = {id(task.adapter): task.adapter for task in tasks}  # most methods send the same to all clients
        encoded = {key: as_arrays(adapter.tensors) for key, adapter in adapters.items()}
        messages = {
            task.client: self._message(task, encoded[id(task.adapter)], node_of[task.client], config) for task in tasks
        }
        self._asked = Asked(federation, {task.client: task for task in tasks}, messages, planned.scores)
        FLOWERS_LOG.info("round %d: %s", server_round, _who(tasks, federation.num_blocks))
        return list(messages.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the replies with the method, and return all arrays; None if the round does not change them."""
        asked, self._asked = self._asked, None
        if asked is None:
            return None, None
        answers, contents = self._answers(asked, replies)
        after, report = self._played(asked, answers)
        for flag in report.flags:
            logger.warning("round %d: %s", server_round, flag)
        for rejection in report.rejections:
            logger.warning("client %d does not count: %s, %s", rejection.client, rejection.reason, rejection.detail)
        after_arrays = as_arrays(after.adapter.tensors)
        why = self._not_finite(after.adapter, after_arrays) if report.failed is None else None
        if why is not None:
            report = replace(report, failed=why)
            after = replace(self.state, attempt=self.state.attempt + 1)
        self.state = after
        self.reports.append(report)
        if report.failed is not None:
            logger.warning("round %d changes nothing: %s", server_round, report.failed)
            return None, None
        counted = alike([contents[one.client] for one in report.clients], self.weighted_by_key)
        metrics = self.train_metrics_aggr_fn(counted, self.weighted_by_key) if counted else None
        return after_arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message per evaluating client, drawn with ``seed`` from the nodes that take part.

        Raises:
            ClientsError: If there are not enough nodes in time.
        """
        if self.fraction_evaluate == 0.0:
            return []

        def wanted(here: int) -> int:
            return max(int(here * self.fraction_evaluate), self.min_evaluate_nodes)

        nodes = self._nodes.gather(grid, lambda here: max(self.min_available_nodes, wanted(here)))
        draw = generator(self._seed, "evaluation", server_round)
        chosen = sorted(draw.choice(len(nodes), size=wanted(len(nodes)), replace=False))
        config["server-round"] = server_round
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [Message(content, nodes[i].node, "evaluate") for i in chosen]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Combine the user's metrics as ``FedAvg`` does; replies with other metrics are left out."""
        whole = [reply for reply in replies if not reply.has_error()]
        kept = {id(content) for content in alike([reply.content for reply in whole], self.weighted_by_key)}
        return super().aggregate_evaluate(server_round, [reply for reply in whole if id(reply.content) in kept])

    def summary(self) -> None:
        """Log the settings of the strategy."""
        FLOWERS_LOG.info("%s: %s", self._row.name, self._row.summary)
        super().summary()

    def _federation(self, grid: Grid) -> tuple[tuple[Node, ...], Federation]:
        """Wait for nodes, and return them with their federation; the last node is excluded if it does not fit.

        Raises:
            ConfigError: If the method cannot run with the first nodes.
        """
        while True:
            nodes = self._nodes.gather(grid, lambda here: max(self.min_available_nodes, self._wanted(here)))
            try:
                federation = self._planning.federation(nodes, self._wanted(len(nodes)))
            except ConfigError as error:
                new = [node for node in nodes if node not in self._passed]
                if not self._passed or not new:
                    raise
                self._nodes.turn_away(new[-1], one_line(error))
            else:
                self._passed = frozenset(nodes)
                return nodes, federation

    def _answers(
        self, asked: Asked, replies: Iterable[Message]
    ) -> tuple[list[Update | Rejection], dict[int, RecordDict]]:
        """Return what each client of the round came to, by ascending id, and the contents of replies by client."""
        contents: dict[int, RecordDict] = {}
        found: dict[int, Update | Rejection] = {}
        for reply in replies:
            k = asked.client_of(reply)
            if k is not None and k not in found:
                found[k] = self._read(asked.tasks[k], reply, asked.messages[k].content)
                if not reply.has_error():
                    contents[k] = reply.content
        absent = {k: _rejected(task, "late", "there is no reply") for k, task in asked.tasks.items() if k not in found}
        return [({**absent, **found})[k] for k in sorted(asked.tasks)], contents

    def _played(self, asked: Asked, answers: Sequence[Update | Rejection]) -> tuple[RunState, RoundReport]:
        """Play the round with its answers; the federation has the sample counts that clients have stated so far."""
        self._stated |= {one.client: one.samples for one in answers if isinstance(one, Update)}
        clients = tuple(replace(client, samples=self._stated.get(client.id, 0)) for client in asked.federation.clients)
        allocations = {k: task.allocation for k, task in asked.tasks.items()}
        return algorithm.round(
            self.state,
            replace(asked.federation, clients=clients),
            replace(self._method, allocate=lambda context: allocations.get(context.client.id)),
            lambda tasks: answers,
            lambda *_: asked.scores or (),
        )

    def _not_finite(self, adapter: Adapter, arrays: ArrayRecord) -> str | None:
        """Return which part of a round's result is not finite; None if all is finite."""
        if not self._scores_here:
            self._of.lora.write(adapter.tensors)
            return None if self._planning.is_finite() else "with the combined values the model's outputs are not finite"
        try:
            self._scored = arrays, self._score_here(adapter)
        except ModelError as error:
            self._of.lora.write(self.state.adapter.tensors)
            return f"with the combined values there are no Fisher scores: {error}"
        return None

    def _score_here(self, adapter: Adapter) -> tuple[float, ...]:
        """Return Γ computed on the server's samples."""
        self._of.lora.write(adapter.tensors)
        return mean_scores([block_sums(self._of.lora, self._proxy or ())])

    def _wanted(self, here: int) -> int:
        """Return the number of clients of a round."""
        return max(int(here * self.fraction_train), self.min_train_nodes)

    def _message(self, task: Task, arrays: ArrayRecord, node: int, config: ConfigRecord) -> Message:
        # Everything is sent: a ClientApp keeps nothing between rounds.
        records: dict[str, ArrayRecord | ConfigRecord] = {
            self.arrayrecord_key: arrays,
            self.configrecord_key: config,
            RECORD: describe_task(task, self._of.weights),
        }
        return Message(RecordDict(records), node, "train")  # type: ignore[arg-type]

    def _read(self, task: Task, reply: Message, sent: RecordDict) -> Update | Rejection:
        """Return the update in a reply, or its rejection."""
        if reply.has_error():
            detail = f"Flower's error {reply.error.code}: {one_line(reply.error.reason)}"
            return _rejected(task, REASONS.get(reply.error.code, "failed"), detail)
        expected = {name: task.adapter.tensors[name] for name in task.adapter.names(task.allocation)}
        try:
            tensors = read_tensors(reply.content, expected)
            samples = samples_of(reply.content, self.weighted_by_key)
        except UpdateError as error:
            return _rejected(task, error.reason, one_line(error))
        if self._most_samples is not None:
            samples = min(samples, self._most_samples)
        sizes = (bytes_of(sent), bytes_of(reply.content))
        return Update(task.client, task.round, samples, tensors, {}, *sizes)

    def _score(
        self, state: RunState, clients: tuple[Client, ...], nodes: Sequence[Node], grid: Grid
    ) -> tuple[float, ...]:
        """Return Γ computed on the clients' samples.

        Raises:
            EngineError: If no client contributes, and there are no previous scores.
        """
        node_of, most = {node.client: node.node for node in nodes}, self._method.scoring.samples
        records = {self.arrayrecord_key: as_arrays(state.adapter.tensors), RECORD: ConfigRecord({"samples": most})}
        asked = [Message(RecordDict(records), node_of[k.id], f"query.{SCORE}") for k in clients]  # type: ignore[arg-type]
        replies = list(grid.send_and_receive(asked, timeout=self._nodes.wait))
        by_id = {reply.metadata.reply_to_message_id: reply for reply in replies}
        sums: list[BlockSums] = []
        for client, sent in zip(clients, asked, strict=True):
            found = sums_of(by_id.get(sent.metadata.message_id), self._of.lora.blocks.count, most)
            if isinstance(found, BlockSums):
                sums.append(found)
            else:
                logger.warning("the Fisher scores are without client %d: %s", client.id, found)
        if sums:
            return mean_scores(sums)
        if state.scores is None:
            raise EngineError(
                "expected Fisher scores from the clients; none came. Register what scores, fedhello.flower.register("
                "app, data=...), or score on the server: proxy=."
            )
        return state.scores


def _rejected(task: Task, reason: Reason, detail: str) -> Rejection:
    return Rejection(task.client, task.round, reason, detail)


def _who(tasks: Sequence[Task], L: int) -> str:
    def drawn(allocation: Allocation) -> str:
        return "".join("●" if l in allocation.blocks else "·" for l in range(L))

    return " ".join(drawn(task.allocation) for task in tasks)
