"""What a run asks of an engine, whatever carries allocations to clients and updates back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedhello.client.scoring import ScoreReply, ScoreRequest
from fedhello.client.settings import TrainingSettings
from fedhello.model.statistics import HeadSums
from fedhello.types import Adapter, Rejection, RoundReport, Task, Update


@dataclass(frozen=True)
class Contribution:
    """One client's head statistics.

    Attributes:
        client: Its id.
        sums: What it sums up.
        bytes_up: Bytes of it, as sent.
        bytes_down: Bytes that it received for it.
    """

    client: int
    sums: HeadSums
    bytes_up: int
    bytes_down: int = 0


class Engine(Protocol):
    """Reaches the clients of a federation.

    Attributes:
        settings: How clients train; evaluation runs in the same number type.
        personal_heads: Client → its own head, for the head policy ``local``; None where heads are not personal. It
            changes only when a round has come to its end. A run sets it when it starts and when it is resumed.
        initial_head: The head's tensors where every personal head starts.
    """

    settings: TrainingSettings
    personal_heads: dict[int, dict[str, Tensor]] | None

    @property
    def initial_head(self) -> Mapping[str, Tensor]:
        """Return the head's tensors where every personal head starts."""
        ...

    def train(self, tasks: Iterable[Task]) -> Iterable[Update | Rejection]:
        """Let the clients of a round train, and yield what comes of it, in ascending client id."""
        ...

    def commit(self, record: RoundReport) -> None:
        """Adopt what the clients that counted keep for themselves."""
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
