"""Which numbers of a sum the server learns: parts of the vectors, each of a cohort of clients.

Where one client alone trained something, the sum is that client's own: the zeros of the others hide nothing. So vectors
are divided into parts; those who trained a part, such as a block, are its cohort. A part whose cohort is smaller than
``least`` is sent by nobody. One whose cohort falls below it later, as clients leave, is not opened: its masks are
made of a seed of its own, whose shares clients keep back. Everybody is told the same plan, and counts for itself.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from fedhello.errors import PrivacyError
from fedhello.privacy.vectors import LEAST, Encoding
from fedhello.types import Allocation


def threshold(clients: int) -> int:
    """Return t = ⌈2n/3⌉, how many of a sum's n clients must stay: up to a third may leave.

    Args:
        clients: n.
    """
    return max(LEAST, -(-2 * clients // 3))


def trained(allocation: Allocation) -> Allocation:
    """Return what of an allocation tells which numbers of a vector a client has."""
    return replace(allocation, policies=(), preference=(), absent=())


@dataclass(frozen=True)
class Plan:
    """What the clients of a sum are told before they share secrets, all the same.

    Attributes:
        clients: All of them, ascending.
        length: m, the numbers of a vector.
        least: The fewest clients that may have trained a part which is opened.
        whole: Whether every client sends all parts, zeros where it trained nothing; else those that it contributes to.
        encoding: How updates become vectors; None for vectors to which everybody contributes everywhere.
        allocations: Client → what it trains, with an encoding.
    """

    clients: tuple[int, ...]
    length: int
    least: int = LEAST
    whole: bool = True
    encoding: Encoding | None = None
    allocations: Mapping[int, Allocation] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Numbers of the vectors that the same clients contribute to.

    Attributes:
        at: Their positions in a vector, ascending; shape (size,).
        cohort: The clients that trained them, ascending.
        senders: The clients that send them, ascending; nobody where the cohort is too small.
    """

    at: np.ndarray
    cohort: tuple[int, ...]
    senders: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The parts of the vectors of a sum.

    Attributes:
        clients: All clients of the sum, ascending.
        length: m, the numbers of a vector.
        least: The fewest clients that may have trained a part which is opened.
        parts: All parts.
    """

    clients: tuple[int, ...]
    length: int
    least: int
    parts: tuple[Part, ...]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """For each part, which of a client's seeds masks it: 0, or one of its own where leavers may end its cohort."""
        most_left = len(self.clients) - threshold(len(self.clients))
        return tuple(
            0 if len(part.cohort) - most_left >= self.least else 1 + number for number, part in enumerate(self.parts)
        )

    def sent_by(self, client: int) -> list[int]:
        """Return which parts a client sends."""
        return [number for number, part in enumerate(self.parts) if client in part.senders]

    def seeds_of(self, client: int) -> list[int]:
        """Return which seeds a client needs, ascending."""
        return sorted({self.seeds[number] for number in self.sent_by(client)})

    def opened(self, stayed: Iterable[int]) -> list[int]:
        """Return which parts may be opened, given the clients whose vectors came."""
        here = set(stayed)
        return [
            number
            for number, part in enumerate(self.parts)
            if part.senders and len(here.intersection(part.cohort)) >= self.least
        ]

    def withheld(self, stayed: Iterable[int]) -> np.ndarray:
        """Return the positions of what some client that stayed trained, and is not opened."""
        here = set(stayed)
        lost = set(range(len(self.parts))) - set(self.opened(here))
        found = [self.parts[number].at for number in sorted(lost) if here.intersection(self.parts[number].cohort)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])


Support = Callable[[Allocation, Encoding], tuple[np.ndarray, np.ndarray]]
"""Function that returns, for each weight of a vector, whether a client adds to it and whether training changes it."""


def laid_out(plan: Plan, support: Support) -> Layout:
    """Return the parts that a plan leads to, the same for server and clients.

    Args:
        plan: As told.
        support: Returns what of a vector an allocation has.

    Raises:
        PrivacyError: If the clients are too few, or the plan does not say what each of them trains.
    """
    clients, encoding = plan.clients, plan.encoding
    if len(clients) < plan.least or plan.least < LEAST:
        raise PrivacyError(f"expected at least {max(plan.least, LEAST)} clients in a sum; found {len(clients)}")
    if encoding is None:
        everything = Part(np.arange(plan.length), clients, clients)
        return Layout(clients, plan.length, plan.least, (everything,))
    if tuple(plan.allocations) != clients or plan.length != encoding.length:
        raise PrivacyError("expected a plan with the allocation of each client, and the length of their vectors")
    known = {allocation: support(allocation, encoding) for allocation in set(plan.allocations.values())}
    found = [known[plan.allocations[k]] for k in clients]
    # One column for each weight, and one for the numbers that everybody adds to.
    columns = np.array([sends for sends, _ in found] + [trains for _, trains in found], dtype=bool)
    columns = np.column_stack([columns, np.ones(len(columns), dtype=bool)])
    patterns, kind = np.unique(columns, axis=1, return_inverse=True)
    kinds = encoding.spread(kind.reshape(-1))
    parts = []
    for number, pattern in enumerate(patterns.T):
        sends, trains = (tuple(np.array(clients)[rows].tolist()) for rows in np.split(pattern, 2))
        senders = () if len(trains) < plan.least else clients if plan.whole else sends
        parts.append(Part(np.flatnonzero(kinds == number), trains, senders))
    return Layout(clients, plan.length, plan.least, tuple(parts))
