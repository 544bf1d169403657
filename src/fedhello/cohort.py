"""Who takes part: clients, and what each can afford."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Limits of a client's training. None is no limit; at least one limit is given.

    Attributes:
        blocks: The most blocks to train (the papers' capacity c), 0 ≤ blocks ≤ L; 0 trains the head only. For methods
            that allocate blocks.
        rank: The highest LoRA rank to train (the papers' r_k), 1 ≤ rank ≤ R. For methods that allocate ranks.
        memory: The most bytes of training, above the loaded model.
        upload: The most bytes to send per round.
        seconds: The most seconds of training per round.
        speed: The client's FLOP/s in training; needed with ``seconds``.
        cache: The most bytes of activations below the lowest trained block to keep between steps and rounds, beside
            ``memory``. It limits no training; None keeps none.

    Example:
        >>> fh.Budget(blocks=2).only_counts, fh.Budget(memory=25_000_000, upload=200_000).only_counts
        (True, False)
    """

    blocks: int | None = None
    memory: int | None = None
    upload: int | None = None
    seconds: float | None = None
    speed: float | None = None
    rank: int | None = None
    cache: int | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        names = ("blocks", "memory", "upload", "seconds", "speed", "rank", "cache")
        return {name: limit for name in names if (limit := getattr(self, name)) is not None}

    @property
    def only_counts(self) -> bool:
        """Whether only blocks or a rank are limited, as in the papers."""
        return self.memory is None and self.upload is None and self.seconds is None


@dataclass(frozen=True)
class Client:
    """A participant with private data.

    Attributes:
        id: 0 … K−1; every sum over clients runs in ascending id.
        tier: Index of its tier: the group of clients with the same budget.
        budget: Its budget.
        samples: n_k, the number of its training samples.
        classes: The labels that occur in its data, ascending; empty where the task has no classes.

    Example:
        >>> fh.Client(id=0, tier=0, budget=fh.Budget(blocks=2), samples=70, classes=(0, 3)).samples
        70
    """

    id: int
    tier: int
    budget: Budget
    samples: int
    classes: tuple[int, ...] = ()
