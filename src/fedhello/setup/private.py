"""A session under differential privacy: what it needs, and what of its clients it does not tell."""

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fedhello.errors import MissingExtraError
from fedhello.model.private_sums import PrivateHead
from fedhello.session import ClientEntry

FEW = 100
"""With fewer clients than this, noise costs most of what the clients contribute."""

PACKAGE = "dp_accounting"


def check_accounting() -> None:
    """Check that the package for accounting is installed.

    Raises:
        MissingExtraError: If it is not.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingExtraError("privacy.epsilon needs a package for accounting; run: pip install 'fedhello[privacy]'")


def anonymous(roster: Iterable[ClientEntry]) -> tuple[ClientEntry, ...]:
    """Return the clients without sample counts and labels, which are not part of any release."""
    return tuple(replace(entry, samples=0, labels=()) for entry in roster)


def private_notes(private: PrivateHead, clients: int) -> Iterator[str]:
    """Yield notes on the noise, and on how many clients it takes.

    Args:
        private: The head's release.
        clients: Number of clients.
    """
    release, most = private.release, private.statistics.most
    yield (
        f"under differential privacy {release.name} are released once: each client's are clipped to length {most:.3g}, "
        f"and noise of deviation {release.noise:.3g} times that is added to every number of their sum, for "
        f"ε={private.epsilon:g} at δ={private.delta:g}; sample counts and labels of clients are not shown"
    )
    if clients < FEW:
        yield (
            f"{clients} clients are few for privacy of whole clients: the noise on every number is {release.noise:.3g} "
            f"times as large as all that one client may contribute; with {FEW} or more it begins to be averaged out"
        )
