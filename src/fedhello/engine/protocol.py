"""What a run asks of an engine, whatever carries allocations to clients and updates back."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from fedhello.client.scoring import ScoreReply, ScoreRequest
from fedhello.client.training import TrainingSettings
from fedhello.model.head import ClassSums
from fedhello.types import Rejection, RoundRecord, Task, Update


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

    def commit(self, record: RoundRecord) -> None:
        """Adopt what the clients that counted keep for themselves."""
        ...

    def class_sums(self) -> Iterable[tuple[ClassSums, int]]:
        """Yield every client's contribution to the class prototypes and its bytes, in ascending id."""
        ...

    def block_scores(self, request: ScoreRequest) -> Iterable[ScoreReply]:
        """Yield what each client that is asked contributes to the Fisher scores, in ascending id."""
        ...
