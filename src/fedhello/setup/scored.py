"""How often a run is scored, so that scoring does not take much of its time."""

import math

from fedhello.config.schema import Config
from fedhello.types import Federation

SHARE = 0.15
"""The most that evaluation may take of the work of training and evaluation."""

PASSES = 3
"""Forward passes that the work of a training step equals: its own, and a backward pass of twice the work."""

FEWEST = 5
"""States that are scored at least, if a run has as many rounds: what ``mean_last_5`` is taken over."""


def scored_every(
    config: Config, federation: Federation, evaluated: int, most: int | None = None
) -> tuple[int, tuple[str, ...]]:
    """Return the rounds between two scorings, and a note if ``train.evaluate_every: auto`` makes them more than one.

    A round trains on the samples of its clients, and a scoring passes over the server's validation and test data once.
    Where a model is selected on validation data it is evaluated after every round anyway, and the test data only when
    another model is selected; where clients' samples are secret, the work of training is not known; and clients on
    other machines may come back with other data, by which a run that goes on would be scored after other rounds.

    Args:
        config: The configuration.
        federation: The clients that can be invited.
        evaluated: Number of validation and test samples.
        most: The most samples of a client in one epoch; None for all.
    """
    train, clients = config.train, federation.clients
    if train.evaluate_every != "auto":
        return train.evaluate_every, ()
    if train.selection == "validation" or config.privacy.epsilon is not None or config.run.engine == "flower":
        return 1, ()
    samples = sum(min(client.samples, most or client.samples) for client in clients) / max(1, len(clients))
    trained = PASSES * train.epochs * federation.clients_per_round * samples
    every = math.ceil(evaluated * (1 / SHARE - 1) / max(trained, 1.0))
    every = max(1, min(every, train.rounds // FEWEST))
    if every == 1:
        return 1, ()
    share = evaluated / (evaluated + every * trained)
    return every, (
        f"the model is scored after every {every} rounds and after the last, so that evaluation takes about "
        f"{share:.0%} of the work; train.evaluate_every sets it",
    )
