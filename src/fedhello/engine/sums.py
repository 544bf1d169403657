"""The server's side of secure sums, wherever the clients are, and what of a client becomes a vector of 64-bit numbers.

The clients of a sum are split into groups at random; the server learns the sum of each group. Who does not answer a
step has left. The sum is that of the clients whose masked vector came, as long as enough of them answer the last step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from fedhello.client.scoring import LARGEST_SQUARE, BlockSums
from fedhello.errors import PrivacyError
from fedhello.model.statistics import PARTS, HeadSums, scaled_to
from fedhello.privacy.masking import MaskedSum, PublicKeys, Sealed, Shares
from fedhello.privacy.parts import Plan, threshold
from fedhello.privacy.secure import Opened, SecureRound
from fedhello.privacy.vectors import LEAST

SCORE_UNIT = 2.0**-40
"""What squared gradients are rounded to multiples of before they are summed."""

PLANS = TypeAdapter(Plan)
"""Writes and reads plans, as clients are told them."""


class Steps(Protocol):
    """Carries the steps of a sum to its clients, and yields the answers of those who are still there."""

    def keys(self, one: MaskedSum, clients: Sequence[int]) -> Iterable[tuple[int, PublicKeys]]:
        """Yield the public keys of some clients, who start a sum."""
        ...

    def sealed(self, one: MaskedSum) -> Iterable[tuple[int, Sealed]]:
        """Tell the clients of a sum its keys and its plan, and yield what they hand out of their secrets."""
        ...

    def shares(self, one: MaskedSum) -> Iterable[tuple[int, Shares]]:
        """Tell the clients whose vectors came who they are, and yield the shares that they reveal."""
        ...


@dataclass
class SecureSums:
    """The sums over groups of clients that are under way.

    Attributes:
        steps: Carries the steps to the clients.
        agreed: What clients and server agree on.
        run: Id of the run.
        groups: The groups' sums.
    """

    steps: Steps
    agreed: SecureRound
    run: str
    groups: list[MaskedSum] = field(default_factory=list, init=False)
    _started: int = field(default=0, init=False)

    def start(self, what: str, clients: Sequence[int], bits: int, plan: Callable[[list[int]], Plan]) -> list[int]:
        """Let clients exchange keys and shares, in groups, and return those who did, ascending.

        Args:
            what: What is summed, such as a round.
            clients: Who is asked.
            bits: Of the numbers.
            plan: Returns what the clients of a group are told.

        Raises:
            PrivacyError: If too few of a group answer.
        """
        self.groups = []
        for group in groups_of(clients, self.agreed.settings.group, self.agreed.settings.least):
            self._started += 1  # A purpose is used once, also where a round is attempted again.
            one = MaskedSum(f"{self.run}/{what}/{self._started}", bits)
            one.keys = dict(sorted(self.steps.keys(one, group)))
            _check_enough(one.keys, len(group))
            told = plan(list(one.keys))
            one.layout, one.told = self.agreed.layout(told), PLANS.dump_json(told).decode()
            one.sealed = dict(self.steps.sealed(one))
            _check_enough(one.sealed, len(group))
            self.groups.append(one)
        return sorted(k for one in self.groups for k in one.sealed)

    def of(self, client: int) -> MaskedSum:
        """Return the sum of a client's group."""
        return next(one for one in self.groups if client in one.keys)

    def opened(self, vectors: Iterable[tuple[int, np.ndarray]] = ()) -> Opened:
        """Add up masked vectors as they come, have the masks taken out, and return the sum over all groups.

        Args:
            vectors: Client → its masked vector.

        Raises:
            PrivacyError: If too few clients stay in a group.
        """
        for client, masked in vectors:
            self.of(client).add(client, masked)
        parts = []
        for one in self.groups:
            _check_enough(one.stayed, len(one.keys))
            parts.append(one.opened([shares for _, shares in self.steps.shares(one)]))
        withheld = np.unique(np.concatenate([one.layout.withheld(one.stayed) for one in self.groups]))
        return Opened(np.add.reduce(parts, dtype=parts[0].dtype), withheld)  # modulo 2^b

    @property
    def stayed(self) -> tuple[int, ...]:
        """The clients whose vectors came, ascending."""
        return tuple(sorted(k for one in self.groups for k in one.stayed))


def _check_enough(clients: Iterable[int], of: int) -> None:
    found = len(set(clients))
    if found < threshold(of):
        raise PrivacyError(f"expected {threshold(of)} clients to stay in a secure sum; found {found}")


def groups_of(clients: Sequence[int], most: int, least: int = LEAST) -> list[list[int]]:
    """Split clients at random, by the operating system's entropy, into as few groups of about equal size as possible.

    Args:
        clients: Who is asked.
        most: The most clients of a group, unless that leaves another with too few.
        least: The fewest clients of a group.

    Raises:
        PrivacyError: If they are too few for a sum.
    """
    if len(clients) < least:
        raise PrivacyError(f"expected at least {least} clients in a secure sum; found {len(clients)}")
    count = min(ceil(len(clients) / most), len(clients) // least)
    order = np.random.default_rng().permutation(len(clients))
    return [sorted(clients[i] for i in part) for part in np.array_split(order, count)]


def everywhere(length: int, least: int) -> Callable[[list[int]], Plan]:
    """Return the plan of a sum of vectors to which every client contributes everywhere, as a function of the clients.

    Args:
        length: Numbers of a vector.
        least: The fewest clients of a sum.
    """
    return lambda clients: Plan(tuple(clients), length, least)


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


def read_scores(total: np.ndarray) -> BlockSums:
    """Return the sums for Fisher scores of a sum of such vectors."""
    squares = torch.from_numpy(total[:-1].astype(np.float64)) * SCORE_UNIT
    return BlockSums(squares, torch.tensor(float(total[-1]), dtype=torch.float64))
