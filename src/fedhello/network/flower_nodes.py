"""The nodes of a user's own Flower apps: their names and budgets."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedhello.engine.tensors import short
from fedhello.errors import ClientsError, ConfigError
from fedhello.network.consent import parse_bytes
from fedhello.network.flower_records import JOIN, RECORD
from fedhello.network.messages import one_line
from fedhello.network.registry import NAME, DeclaredBudget
from fedhello.notes import logger
from fedhello.types import Budget

POLL = 1.0
"""Seconds between two polls for connected nodes."""

LARGEST_ID = 2**31
"""A name that is a larger number is no client's id."""

AGAIN = 30.0
"""Seconds after which a node that could not be asked is asked again."""


def read_budget(stated: Mapping[str, Any] | Budget, whose: str) -> Budget:
    """Return a budget from ``--node-config`` or from a program, after checking it.

    Args:
        stated: ``blocks``, ``rank``, ``memory`` and ``upload``, the latter two in bytes or with a unit.
        whose: The node's name, for messages.

    Raises:
        ConfigError: If it is not a budget, or has no limit.
    """
    if isinstance(stated, Budget):
        stated = stated.limits
    try:
        sized = {
            k: parse_bytes(v) if k in ("memory", "upload") and isinstance(v, str) else v
            for k, v in dict(stated).items()
        }
        found = DeclaredBudget(**sized)
    except (ConfigError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected a budget of {whose} as blocks, rank, memory (such as 4GB) or upload; found {short(stated)}: "
            f"{one_line(error)}"
        ) from error
    budget = Budget(**found.model_dump())
    if budget == Budget() or budget.seconds is not None:
        raise ConfigError(
            f"expected a budget of {whose} in blocks, rank, memory or upload; found {short(stated)}. Start its "
            "SuperNode with --node-config 'blocks=2' or 'memory=\"4GB\"', or give FedHello budgets={name: {...}}."
        )
    return budget


@dataclass(frozen=True)
class Node:
    """A node that takes part.

    Attributes:
        node: Flower's id, which changes at each start.
        client: Its id within the run, assigned to its name: its partition-id, or another name that is a number, and
            else the first that is free.
        name: The name that it reports.
        budget: Its budget.
    """

    node: int
    client: int
    name: str
    budget: Budget


@dataclass
class Nodes:
    """The connected nodes; each is asked once for its name and budget.

    Attributes:
        budgets: Name → budget of a node that reports none itself; under None the budget of all others.
        wait: Seconds to wait until enough nodes are connected.
        complaint: Function that returns why a node with a budget cannot take part; None if it can.
        limited: Function that limits a budget to the blocks and the rank of the model.
        clock: A monotonic clock, in seconds.
        sleep: Waits some seconds.
    """

    budgets: Mapping[Any, Mapping[str, Any] | Budget] = field(default_factory=dict)
    wait: float = 600.0
    complaint: Callable[[Budget], str | None] = lambda budget: None
    limited: Callable[[Budget], Budget] = lambda budget: budget
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _known: dict[int, Node] = field(default_factory=dict)
    _refused: dict[int, str] = field(default_factory=dict)
    _failed: dict[int, tuple[str, float]] = field(default_factory=dict)
    _ids: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Forget all nodes, for another run."""
        for known in (self._known, self._refused, self._failed, self._ids):
            known.clear()

    def gather(self, grid: Grid, enough: Callable[[int], int]) -> tuple[Node, ...]:
        """Wait until enough nodes are connected and have reported their budgets; return them by client id.

        Nodes that could not be asked the last time are asked again.

        Args:
            grid: Flower's grid.
            enough: Number of connected nodes → number of needed nodes.

        Raises:
            ClientsError: If there are not enough in time, or as many are connected and none of them can take part.
        """
        end = self.clock() + self.wait
        self._failed.clear()
        while True:
            online = set(grid.get_node_ids())
            failed = {node for node, (_, since) in self._failed.items() if self.clock() - since < AGAIN}
            new = sorted(online - self._known.keys() - self._refused.keys() - failed)
            if new:
                self._ask(grid, new, max(1.0, end - self.clock()))
            here = {node.client: node for id_, node in self._known.items() if id_ in online}
            needed = enough(len(here))
            if len(here) >= needed:
                return tuple(here[k] for k in sorted(here))
            out = {node: why for node, (why, _) in self._failed.items()} | self._refused
            if self.clock() > end or (not here and len(out.keys() & online) >= needed):
                refused = "; ".join(dict.fromkeys(out.values()))
                raise ClientsError(
                    f"expected {needed} nodes within {self.wait:.0f} s; {len(here)} of the {len(online)} that are "
                    f"connected can take part{': ' + refused if refused else ''}. Start more SuperNodes, or lower "
                    "min_available_nodes and min_train_nodes."
                )
            self.sleep(POLL)

    def _ask(self, grid: Grid, nodes: list[int], seconds: float) -> None:
        asked = [Message(RecordDict({RECORD: ConfigRecord()}), node, f"query.{JOIN}") for node in nodes]
        replies = list(grid.send_and_receive(asked, timeout=seconds))
        node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in asked}
        said: dict[int, dict[str, Any]] = {}
        for reply in replies:
            node = node_of.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            record = None if reply.has_error() else reply.content.get(RECORD)
            if isinstance(record, ConfigRecord):
                said[node] = dict(record)
            else:
                why = one_line(reply.error.reason) if reply.has_error() else "it says nothing"
                why = f"it does not say who it is ({why}); call fedhello.flower.register(app) beside it"
                self._failed[node] = why, self.clock()
                logger.warning("node %s does not take part yet: %s", node, why)
        names = {node: str(fields.pop("name", node)) for node, fields in said.items()}
        for node in [node for node, name in names.items() if not re.fullmatch(NAME, name)]:
            found = short(names.pop(node))
            self._refuse(node, f"expected a name of up to 64 letters, digits, dots, _ or -; found {found}")
        for node in sorted(names, key=lambda node: _in_order(names[node])):
            self._join(node, names[node], said[node])

    def _join(self, node: int, name: str, said: Mapping[str, Any]) -> None:
        named = next((self.budgets[key] for key in self.budgets if str(key) == name), None)
        stated = said or named or self.budgets.get(None, {})
        try:
            budget = self.limited(read_budget(stated, f"node {name}"))
        except ConfigError as error:
            self._refuse(node, str(error))
            return
        complaint = self.complaint(budget)
        if complaint is not None:
            self._refuse(node, f"{name}: {complaint}")
            return
        for earlier, known in list(self._known.items()):
            if known.name == name:  # it has restarted, while Flower still lists its earlier node
                logger.warning("two nodes are called %s; the one that came last takes part", name)
                del self._known[earlier]
                self._refused[earlier] = f"another node called {name} came later"
        client = self._ids.setdefault(name, self._free_id(name))
        self._known[node] = Node(node, client, name, budget)

    def _free_id(self, name: str) -> int:
        """Return the id of a new name: the name where it is a number that nobody has, else the first free one."""
        used = set(self._ids.values())
        own = int(name) if name.isdecimal() else -1
        return own if 0 <= own < LARGEST_ID and own not in used else next(k for k in count() if k not in used)

    def turn_away(self, node: Node, why: str) -> None:
        """Exclude a node that took part so far."""
        self._known.pop(node.node, None)
        self._refuse(node.node, f"{node.name}: {why}")

    def _refuse(self, node: int, why: str) -> None:
        self._refused[node] = why
        logger.warning("node %s does not take part: %s", node, why)


def _in_order(name: str) -> tuple[int, int, str]:
    """Return a sort key: numeric names by number, before all others."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
