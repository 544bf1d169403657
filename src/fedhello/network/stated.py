"""What a client states of its data when it joins."""

from collections.abc import Sequence
from typing import NamedTuple

from fedhello.client.cost_model import Shape, batch_shapes
from fedhello.config.schema import Config
from fedhello.config.settings import private_statistics
from fedhello.data.batches import Samples
from fedhello.errors import ConfigError
from fedhello.setup.private_plan import longest_shapes

MOST_BATCHES = 2**22
"""The most batches in a round that a client plans for."""


class Stated(NamedTuple):
    """What a client states of its data.

    Attributes:
        samples: Their number.
        classes: Those that occur.
        widest: The widest batch.
        batches: All batches of a round.
    """

    samples: int
    classes: tuple[int, ...]
    widest: Shape
    batches: list[Shape]


def stated_of(config: Config, samples: Samples, classes: Sequence[int], on_samples: bool) -> Stated:
    """Return what a client states of its data.

    Under differential privacy it does not depend on them, but for their number where that is taken as known.

    Args:
        config: The configuration, as the client takes part in it.
        samples: Its samples.
        classes: The labels that occur.
        on_samples: Whether single samples are protected.

    Raises:
        ConfigError: If a round has too many batches.
    """
    widest, batches = _batches(config, samples)
    if private_statistics(config.privacy) is None:
        return Stated(len(samples), tuple(classes), widest, batches)
    number, kind = len(samples) if on_samples else 1, config.data.kind or "texts"
    return Stated(number, (), *longest_shapes(config, kind, int(samples.lengths().max()), number))


def _batches(config: Config, samples: Samples) -> tuple[Shape, list[Shape]]:
    """Return the widest batch, and all of a round.

    Raises:
        ConfigError: If there are too many.
    """
    train = config.train
    most = -(-len(samples) // train.batch_size) * train.epochs
    if most > MOST_BATCHES:
        raise ConfigError(
            f"expected a server that asks for at most {MOST_BATCHES} batches per round; with its train.epochs, "
            f"{train.epochs}, and train.batch_size, {train.batch_size}, they would be {most}"
        )
    return batch_shapes(samples.lengths(), train.batch_size, train.epochs)
