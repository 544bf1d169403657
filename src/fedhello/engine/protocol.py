"""The interface of engines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedhello.client.scoring import ScoreReply, ScoreRequest
from fedhello.client.settings import TrainingSettings
from fedhello.engine.observer import Observer
from fedhello.model.statistics import HeadSums
from fedhello.state import RoundReport
from fedhello.types import Adapter, Rejection, Task, Update

Heads = Mapping[int, Mapping[str, Tensor]]
"""Client → its own head, by tensor name."""


@dataclass(frozen=True)
class Contribution:
    """Head statistics of one client, or a sum over several of which no one's is known.

    Attributes:
        clients: The clients, ascending id.
        sums: Their sums.
        bytes_up: Bytes on the wire that they sent.
        bytes_down: Bytes on the wire that they received.
    """

    clients: tuple[int, ...]
    sums: HeadSums
    bytes_up: int
    bytes_down: int = 0


class Engine(Protocol):
    """Reaches the clients of a federation.

    Attributes:
        settings: The settings of local training; evaluation runs in the same number type.
        happened: What befell it during the run, one sentence each, for the run's notes.
        observer: Is told what happens within a round.
    """

    settings: TrainingSettings
    happened: Sequence[str]
    observer: Observer

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterable[Update | Rejection]:
        """Let the clients of a round train, and yield their updates or rejections, in ascending client id.

        Args:
            tasks: One task per client.
            heads: The clients' own heads, if heads are personal; a client without one starts from the initial head.
                They are not changed.
        """
        ...

    def trained_heads(self, report: RoundReport) -> Heads:
        """Return the own heads of the clients whose updates counted in the last round; empty if it failed."""
        ...

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterable[Contribution]:
        """Yield the head statistics of some clients, or of all, in ascending id.

        Args:
            clients: The clients; None for all clients with data, including those that are not invited to train.
            adapter: The adapter under which features are computed; None for the initial adapter of the run.
        """
        ...

    def block_scores(self, request: ScoreRequest) -> Iterable[ScoreReply]:
        """Yield the reply of each requested client with its sums for Fisher scores, in ascending id, or one for all."""
        ...
