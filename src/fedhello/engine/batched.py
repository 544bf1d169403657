"""The batched engine: clients of a round that train the same tensors do so in one forward pass, with an adapter each.

It is the local engine with another way to train; see ``fedhello.client.together``.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from fedhello.client.settings import with_rate
from fedhello.client.together import train_together
from fedhello.client.training import Trained
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Heads
from fedhello.engine.wire import encode_task
from fedhello.errors import UpdateError
from fedhello.types import Rejection, Task, Update

MOST = 64
"""The most clients whose tasks are held at once."""

logger = logging.getLogger("fedhello")


@dataclass
class BatchedEngine(LocalEngine):
    """Trains clients with like tasks together, ``workers.count`` at most; one whose task is like no other's alone."""

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        """Train the clients of a round and yield their replies, in ascending id; see ``Engine``."""
        self._trained_heads = {}
        arrivals = self._arrivals(tasks)
        while some := list(islice(arrivals, MOST)):
            replies: dict[int, Update | Rejection] = {}
            for group in self._groups([task for task, absence in some if absence is None]):
                replies |= zip((task.client for task in group), self._together(group, heads), strict=True)
            yield from (replies[task.client] if absence is None else absence for task, absence in some)

    def _groups(self, tasks: Iterable[Task]) -> list[list[Task]]:
        """Return tasks in groups of those that can go together."""
        groups: list[list[Task]] = []
        for task in tasks:
            fits = (g for g in groups if len(g) < self.workers.count and _alike(g[0], task))
            group = next(fits, None)
            if group is None:
                groups.append([task])
            else:
                group.append(task)
        return groups

    def _together(self, tasks: Sequence[Task], heads: Heads | None) -> Iterator[Update | Rejection]:
        """Yield the replies of a group; where a pass fails, half of them go together, so an error is one client's."""
        clients = [self.federation.by_id[task.client] for task in tasks]
        if len(tasks) == 1:
            yield self._reply(tasks[0], clients[0], heads)
            return
        starts = [self._start(task, heads) for task in tasks]
        self.model.write({**starts[0][1], **tasks[0].adapter.tensors})
        works = [self._assignment(task, k, names) for task, k, (names, _) in zip(tasks, clients, starts, strict=True)]
        values = [{**own, **task.adapter.tensors} for task, (_, own) in zip(tasks, starts, strict=True)]
        found: list[Trained | UpdateError] | None = None
        try:
            found = train_together(self.model, works, values, with_rate(self.settings, tasks[0].lr))
        except Exception as error:
            logger.warning("%d clients train in smaller groups, since together: %s", len(tasks), error)
        finally:
            # The server scores and saves the model next, which must not contain a client's private head.
            self.model.write(self._initial_head if starts[0][1] else {})
        if found is None:
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(tasks) // 2
            yield from (*self._together(tasks[:half], heads), *self._together(tasks[half:], heads))
            return
        for task, (_, own), trained in zip(tasks, starts, found, strict=True):
            yield self._answered(task, own, len(encode_task(task)), partial(_given, trained))


def _given(trained: Trained | UpdateError) -> Trained:
    if isinstance(trained, UpdateError):
        raise trained
    return trained


def _alike(one: Task, other: Task) -> bool:
    """Whether two clients train the same tensors, and all else that they hold is the same.

    Protected samples, and blocks that recompute or compress, are for a client alone.
    """
    a, b = one.allocation, other.allocation
    if a != b or one.lr != other.lr or one.steps is not None or other.steps is not None:
        return False
    if any(policy != "keep" for policy in a.policies):
        return False
    held, names = one.adapter.tensors, one.adapter.names(a)
    if held.keys() != other.adapter.tensors.keys() or names != other.adapter.names(b):
        return False
    rest = held.keys() - set(names)
    shapes = all(held[name].shape == other.adapter.tensors[name].shape for name in names)
    return shapes and all(_equal(held[name], other.adapter.tensors[name]) for name in rest)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or torch.equal(a, b)
