"""Callbacks, which observe a run and may stop it early.

If a callback raises, the run ends in order with the callback's name in the error. The finished rounds are kept, and the
run can be resumed: ``fedhello resume RUN`` or ``fedhello.resume``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from fedhello.errors import CallbackError, ConfigError
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.status import Status
from fedhello.runs.summary import Summary
from fedhello.session import RunSettings, Session
from fedhello.state import RunState, Watched


class Callback:
    """Base class of callbacks. Override the methods that you need; they do nothing by default.

    Example:
        >>> class Bells(Callback):
        ...     def on_round(self, state, record):
        ...         print("round", record.report.round + 1)
    """

    @property
    def reason(self) -> str:
        """By what a run was stopped, if by this callback, as the summary says it: the name of the class."""
        return type(self).__name__

    def on_loading(self, what: str) -> None:
        """Called before anything else, each time that something is about to be loaded.

        Args:
            what: What it is, for people, such as ``the model``.
        """

    def on_waiting(self, connected: int, wanted: int) -> None:
        """Called several times a second while a server waits for clients, before the first round.

        Args:
            connected: How many are here.
            wanted: How many are waited for.
        """

    def on_start(self, session: Session, start: RunStart) -> bool | None:
        """Called once in every process that runs rounds, before its first round.

        Args:
            session: The session of the run.
            start: The start of the run; ``start.state.round`` rounds have finished already.

        Returns:
            True to end the run before its next round, as it would have ended in an earlier process; None or False to
            continue.
        """
        return None

    def on_round(self, state: RunState, record: RoundRecord) -> bool | None:
        """Called after each committed round, and after each failed attempt, which does not change the state.

        Args:
            state: The state after the round.
            record: The round's record.

        Returns:
            True, or any true value, to end the run after this round with the status ``stopped`` and the current head;
            None or False to continue.
        """
        return None

    def on_progress(self, status: Status) -> None:
        """Called within a round: when the run goes over to something else, and while clients train.

        It is called at most about three times a second, more often only for a few changes of phase in a row, and also
        before ``on_start``, while the head is solved and the start is scored. Return at once: the run waits. An error
        that it raises ends the run after the round.

        Args:
            status: What the run does right now, with each client of the round: for example step 20 of 60.
        """

    def on_end(self, summary: Summary) -> None:
        """Called once after the last round, also of an interrupted or failed run, when the folder is complete.

        Args:
            summary: The run's summary.
        """


def loading_teller(callbacks: Sequence[Callback]) -> Callable[[str], None]:
    """Return a function that tells callbacks what is about to be loaded; their errors are ``CallbackError``."""
    return lambda what: _tell(callbacks, "on_loading", what)


def waiting_teller(callbacks: Sequence[Callback]) -> Callable[[int, int], None]:
    """Return a function that tells callbacks how many clients are here and wanted, with the same errors."""
    return lambda connected, wanted: _tell(callbacks, "on_waiting", connected, wanted)


def _tell(callbacks: Sequence[Callback], method: str, *what: object) -> None:
    for callback in callbacks:
        try:
            getattr(callback, method)(*what)
        except Exception as error:  # an error of the callback, not of the run
            raise CallbackError(
                f"the callback {type(callback).__name__} failed in {method}: {type(error).__name__}: {error}. "
                "Nothing has been written; fix it and start again."
            ) from error


def checked_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks as a list, after checking their types.

    Raises:
        ConfigError: If ``callbacks`` is not a list of ``Callback`` objects.
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
    """Stops a run whose metric has not improved for some scored rounds.

    Args:
        patience: Number of scored rounds without an improvement, at least 1.
        metric: The metric, on the server's validation data or over the clients' samples.
        min_delta: The smallest improvement that counts, ≥ 0.

    Raises:
        ConfigError: If ``patience`` or ``min_delta`` is out of range, or ``metric`` is unknown.

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

    def on_start(self, session: Session, start: RunStart) -> bool:
        """Take the scores before round 0 and those of rounds in earlier processes into account."""
        value = _value(self.metric, start)
        self.best, self.waited = (None if value is None else self._signed(value)), 0
        for record in start.records:
            self.on_round(start.state, record)
        return self.waited >= self.patience

    def on_round(self, state: RunState, record: RoundRecord) -> bool:
        """Stop after ``patience`` scored rounds without an improvement."""
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


class ConfiguredStop(EarlyStopping):
    """Early stopping by ``train.stop``."""

    @property
    def reason(self) -> str:
        """The key, with what has not become better."""
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = "" if self.best is None else f" than {abs(self.best):.4g}"
        return f"train.stop: {self.metric} has not been better{best}{by} for {self.waited} scored rounds"


class Target(Callback):
    """Stops a run after the first scored round after which the model that it would return is accurate enough.

    The model from before training does not count, also where rounds have finished and the run would still return it.

    Args:
        accuracy: The least that is enough, 0 … 1.
    """

    def __init__(self, accuracy: float) -> None:
        self.accuracy, self.found = accuracy, 0.0

    @property
    def reason(self) -> str:
        """The key, with the accuracy that was reached."""
        return f"train.target: the validation accuracy, {self.found:.4g}, has reached {self.accuracy:g}"

    def on_start(self, session: Session, start: RunStart) -> bool:
        """Take rounds of earlier processes into account; what the run started with does not count."""
        return bool(start.records) and self.on_round(start.state, start.records[-1])

    def on_round(self, state: RunState, record: RoundRecord) -> bool:
        """Stop after a scored round that reaches the target."""
        trained = record.report.failed is None and record.selected != 0
        value = _value("validation_accuracy", record) if trained else None
        self.found = self.found if value is None else value
        return value is not None and value >= self.accuracy


def configured(settings: RunSettings) -> list[Callback]:
    """Return the callbacks that a run's own settings ask for."""
    stop = settings.stop
    found: list[Callback] = []
    if stop is not None:
        found.append(ConfiguredStop(stop.patience, stop.metric, stop.min_delta))
    if settings.target is not None:
        found.append(Target(settings.target))
    return found


def _value(metric: Watched, of: RunStart | RoundRecord) -> float | None:
    """Return the value of a metric; None if it was not computed."""
    if metric == "train_loss":
        return of.train_loss if isinstance(of, RoundRecord) else None
    if of.validation is None:
        return None
    return of.validation.accuracy if metric == "validation_accuracy" else of.validation.loss
