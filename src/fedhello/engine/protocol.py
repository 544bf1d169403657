"""What a run asks of an engine, whatever carries allocations to clients and updates back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedhello.client.scoring import ScoreReply, ScoreRequest
from fedhello.client.settings import TrainingSettings
from fedhello.model.statistics import HeadSums
from fedhello.state import RoundReport
from fedhello.types import Adapter, Rejection, Task, Update

Heads = Mapping[int, Mapping[str, Tensor]]
"""Client → the head that it keeps, by tensor name."""


@dataclass(frozen=True)
class Contribution:
    """Head statistics of one client, or a sum over several of which no one's is known.

    Attributes:
        clients: Whose, ascending id.
        sums: What it sums up.
        bytes_up: Bytes of it, as sent.
        bytes_down: Bytes that it received for it.
    """

    clients: tuple[int, ...]
    sums: HeadSums
    bytes_up: int
    bytes_down: int = 0


class Engine(Protocol):
    """Reaches the clients of a federation.

    Attributes:
        settings: How clients train; evaluation runs in the same number type.
    """

    settings: TrainingSettings

    def train(self, tasks: Iterable[Task], heads: Heads | None = None) -> Iterable[Update | Rejection]:
        """Let the clients of a round train, and yield what comes of it, in ascending client id.

        Args:
            tasks: What each of them starts from and trains.
            heads: The clients' own heads, where heads are personal; one without starts from the initial head. They
                are not changed.
        """
        ...

    def trained_heads(self, report: RoundReport) -> Heads:
        """Return the own heads of the clients that counted in the round that has just ended; empty if it failed."""
        ...

    def head_sums(self, clients: Sequence[int] | None = None, adapter: Adapter | None = None) -> Iterable[Contribution]:
        """Yield the head statistics of some clients, or of all, in ascending id.

        Args:
            clients: Whose; None for everybody who has data, also those who are not invited to train.
            adapter: Under which features are taken; None for the adapter that the run starts from.
        """
        ...

    def block_scores(self, request: ScoreRequest) -> Iterable[ScoreReply]:
        """Yield what each client that is asked contributes to the Fisher scores, in ascending id."""
        ...
