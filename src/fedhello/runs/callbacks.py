"""Callbacks: they watch a run, and may end it early.

A callback that raises ends the run in order, with its name in the error; the rounds before are kept, and the run can
go on: ``fedhello resume RUN`` or ``fedhello.resume``.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from fedhello.errors import ConfigError
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.summary import Summary
from fedhello.session import Session
from fedhello.state import RunState

Watched = Literal["validation_accuracy", "validation_loss", "train_loss"]
"""What early stopping may look at. Test data are for reporting alone."""


class Callback:
    """Something that watches a run. Override what you need; each method does nothing here.

    Example:
        >>> class Bells(Callback):
        ...     def on_round(self, state, record):
        ...         print("round", record.report.round + 1)
    """

    def on_start(self, session: Session, start: RunStart) -> None:
        """Called once in every process that plays rounds, before its first.

        Args:
            session: What runs.
            start: What was there before round 0; ``start.state.round`` rounds have been played already.
        """

    def on_round(self, state: RunState, record: RoundRecord) -> bool | None:
        """Called after each round, when it is kept; and after an attempt that failed, which changed nothing.

        Args:
            state: After the round.
            record: What it came to.

        Returns:
            True, or anything that counts as true, ends the run after this round: with the status ``stopped`` and the
            head as it is. None and False let it go on.
        """
        return None

    def on_end(self, summary: Summary) -> None:
        """Called once after the last round, also of an interrupted or failed run; its folder is complete then.

        Args:
            summary: The run in numbers.
        """


def checked_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return callbacks, all of which are some.

    Raises:
        ConfigError: If it is no list of them.
    """
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise ConfigError(f"expected a list of callbacks; found a {type(callbacks).__name__}. Write callbacks=[…].")
    found = list(callbacks)
    for one in found:
        if not isinstance(one, Callback):
            name = one.__name__ if isinstance(one, type) else f"a {type(one).__name__}"
            raise ConfigError(
                f"expected callbacks to be objects of classes that extend fedhello.Callback; found {name}"
            )
    return found


class EarlyStopping(Callback):
    """Ends a run that has not become better for some scored rounds.

    Args:
        patience: Scored rounds without a better value, at least 1.
        metric: What counts, on the server's validation data or over the clients' samples.
        min_delta: By how much a value must be better to count, ≥ 0.

    Raises:
        ConfigError: If patience or min_delta are out of their range, or there is no such metric.

    Example:
        >>> fh.run("my.yaml", callbacks=[fh.EarlyStopping(patience=1, min_delta=1.0)]).summary.status
        'stopped'
    """

    def __init__(self, patience: int, metric: Watched = "validation_accuracy", min_delta: float = 0.0) -> None:
        if patience < 1 or min_delta < 0 or metric not in get_args(Watched):
            raise ConfigError(
                f"expected EarlyStopping(patience ≥ 1, metric one of {', '.join(get_args(Watched))}, min_delta ≥ 0); "
                f"found patience={patience}, metric={metric!r}, min_delta={min_delta}"
            )
        self.patience, self.metric, self.min_delta = patience, metric, min_delta
        self.best: float | None = None
        self.waited = 0

    def on_start(self, session: Session, start: RunStart) -> None:
        """Begin with what is there before round 0, and the rounds that earlier processes played."""
        value = _value(self.metric, start)
        self.best, self.waited = (None if value is None else self._signed(value)), 0
        for record in start.records:
            self.on_round(start.state, record)

    def on_round(self, state: RunState, record: RoundRecord) -> bool:
        """Stop after ``patience`` scored rounds without a better value."""
        value = None if record.report.failed is not None else _value(self.metric, record)
        if value is None:
            return False
        if self.best is None or self._signed(value) > self.best + self.min_delta:
            self.best, self.waited = self._signed(value), 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def _signed(self, value: float) -> float:
        return value if self.metric == "validation_accuracy" else -value


def _value(metric: Watched, of: RunStart | RoundRecord) -> float | None:
    """Return the value of a metric; None where it was not measured."""
    if metric == "train_loss":
        return of.train_loss if isinstance(of, RoundRecord) else None
    if of.validation is None:
        return None
    return of.validation.accuracy if metric == "validation_accuracy" else of.validation.loss
