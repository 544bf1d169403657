"""Test accuracy by client, from the confusion matrix of a run: no sample is run once more.

A client's test accuracy is that at its own mix of classes, Σ_c p_k(c)·recall(c), with p_k(c) the share of class c among
its training samples. It assumes that samples of a class are alike on all clients. The clients' own samples are not
scored: they are what they trained on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedhello.model.confusion import ConfusionMatrix
from fedhello.session import ClientEntry

MIX = "test accuracy at each client's mix of classes"

EQUAL_MIX = "test accuracy at equal shares of each client's classes, since how often they occur there is not known"


@dataclass(frozen=True)
class ClientScore:
    """The test accuracy of a client.

    Attributes:
        client: Its id.
        name: What a client on another machine calls itself; None for a local client.
        tier: Index of its tier.
        samples: Number of its training samples.
        accuracy: Within 0 … 1; None if its classes are not known, or have no test sample.
    """

    client: int
    name: str | None
    tier: int
    samples: int
    accuracy: float | None


@dataclass(frozen=True)
class ClientScores:
    """The test accuracy of each client of a run.

    Attributes:
        clients: In ascending id.
        what: What the accuracies are, in words.

    Example:
        >>> scores = fh.run("my.yaml").client_scores()
        >>> len(scores.clients), 0 <= scores.worst_decile <= 1
        (4, True)
    """

    clients: tuple[ClientScore, ...]
    what: str

    @property
    def ranked(self) -> tuple[ClientScore, ...]:
        """The clients with an accuracy, the worst first."""
        known = [one for one in self.clients if one.accuracy is not None]
        return tuple(sorted(known, key=lambda one: (one.accuracy, one.client)))

    @property
    def mean(self) -> float | None:
        """The mean over clients; None without any."""
        return _mean(self.ranked)

    @property
    def worst_decile(self) -> float | None:
        """The mean over the tenth of the clients with the lowest accuracies, at least one; None without any."""
        return _mean(self.ranked[: math.ceil(len(self.ranked) / 10)])

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        rows = [asdict(one) for one in self.clients]
        return {"what": self.what, "mean": self.mean, "worst_decile": self.worst_decile, "clients": rows}


def client_scores(matrix: ConfusionMatrix, clients: Sequence[ClientEntry]) -> ClientScores:
    """Return the test accuracy of each client at its mix of classes.

    Args:
        matrix: The confusion matrix on test data.
        clients: The clients of the run.
    """
    scores = tuple(
        ClientScore(
            client=one.client,
            name=None if one.facts is None else one.facts.get("name"),
            tier=one.tier,
            samples=one.samples,
            accuracy=matrix.accuracy_at(_mix(one, matrix.labels)),
        )
        for one in clients
    )
    counted = all(isinstance(one.labels, Mapping) for one in clients)
    return ClientScores(scores, MIX if counted else EQUAL_MIX)


def _mix(client: ClientEntry, labels: Sequence[str]) -> list[int]:
    """Return the weight of each class: its samples on the client, or 1 if only which classes occur is known."""
    if isinstance(client.labels, Mapping):
        return [client.labels.get(label, 0) for label in labels]
    return [int(label in client.labels) for label in labels]


def _mean(scores: Sequence[ClientScore]) -> float | None:
    known = [one.accuracy for one in scores if one.accuracy is not None]
    return sum(known) / len(known) if known else None
