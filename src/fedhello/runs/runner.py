"""Run a prepared session to its end: rounds, callbacks, folder and checkpoints; end in order when interrupted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fedhello.engine.observer import NOBODY
from fedhello.errors import CallbackError, FedhelloError, RunFolderError
from fedhello.notes import logger
from fedhello.runs.answers import answer, compared
from fedhello.runs.callbacks import Callback, configured
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.console import Progress
from fedhello.runs.files import check_room
from fedhello.runs.folder import RunFolder
from fedhello.runs.interrupts import Interrupts
from fedhello.runs.loop import RoundRecord, domain_scores, rounds
from fedhello.runs.observer import RunObserver
from fedhello.runs.progress import Progress as Place
from fedhello.runs.progress import begin, identity_of
from fedhello.runs.summarise import Status, summarise
from fedhello.runs.summary import Summary
from fedhello.runs.tracking import Tracker, check_installed
from fedhello.session import Session
from fedhello.state import RunState

SMALL_FILES = 2**18
"""Bytes of room for the small files of a run's end."""


def run_session(
    session: Session, folder: RunFolder, callbacks: Sequence[Callback] = (), resumed: Place | None = None
) -> Summary:
    """Run all rounds, write the folder and report each round to the tools in ``run.track``.

    Ctrl-C, SIGTERM or an error in a round abandons that round; the rounds before it are kept, with their adapter and a
    checkpoint. A second Ctrl-C ends the process at once; the last checkpoint remains.

    Args:
        session: The session, with any engine.
        folder: The folder of a new run, or of ``resumed``.
        callbacks: Callbacks that observe the run and may stop it.
        resumed: The result of ``fedhello.runs.progress.restore_progress``; None starts a new run.

    Returns:
        The summary of all rounds, including those of earlier processes; its ``status`` is ``finished``,
        ``interrupted``, or ``stopped`` by a callback, ``train.stop`` or ``train.target``.

    Raises:
        MissingExtraError: If ``run.track`` names a tool that is not installed; nothing is written.
        RunFolderError: If the folder cannot be written, there is no room for its last files, or another
            process writes to it.
        CallbackError: If a callback raised; the folder then holds a summary with the status ``failed``.
        Exception: Any exception of a round; the folder then holds a summary with the status ``failed``.
    """
    check_installed(session.settings.track)
    # The last checkpoint and the adapter hold the adapter once each; a method's state and other models come on top.
    check_room(folder.path, 2 * sum(value.nbytes for value in session.initial.values()) + SMALL_FILES)
    observer = RunObserver(session, folder.path, callbacks)
    with _observed(session, observer):
        return _run_session(session, folder, callbacks, resumed, observer)


@contextmanager
def _observed(session: Session, observer: RunObserver) -> Iterator[None]:
    session.engine.observer = observer
    try:
        yield
    finally:
        session.engine.observer = NOBODY


def _run_session(
    session: Session,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    resumed: Place | None,
    observer: RunObserver,
) -> Summary:
    progress = begin(session) if resumed is None else resumed
    if resumed is None:
        folder.begin(session)
    with folder.locked(), Interrupts() as interrupts:
        tracker = Tracker(session.settings.track, folder.path, lambda line: warn(folder, line))
        # Tools open before the display and close after it: some ask for a key, and some upload slowly.
        every = [tracker, *callbacks, *configured(session.settings)]
        run = _Run(session, folder, every, interrupts, progress, observer)
        status: Status = "finished"
        failure: Exception | None = None
        try:
            run.open(tracker)
            status = "stopped" if run.play() else "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        except Exception as error:  # any exception: the finished rounds are kept, and it is raised again below
            status, failure = "failed", error
        return run.end(status, failure)


def warn(folder: RunFolder, line: str) -> None:
    """Log a warning in the folder's log and with the logger ``fedhello``."""
    folder.log(f"note: {line}")
    logger.warning(line)


@dataclass
class _Run:
    """A running run.

    Attributes:
        session: The session.
        folder: The run's folder, locked.
        callbacks: The callbacks.
        interrupts: The handler of signals.
        progress: The run's progress.
        observer: Is told what the run does, and tells it callbacks.
        saved: Number of results in the last checkpoint of this process; None before the first.
        stopped: By what the run was stopped before its last round; None if it was not.
    """

    session: Session
    folder: RunFolder
    callbacks: Sequence[Callback]
    interrupts: Interrupts
    progress: Place
    observer: RunObserver
    saved: int | None = None
    stopped: str | None = None
    checkpoints: Checkpoints = field(init=False)
    identity: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder.checkpoints, self.session.settings.keep)
        self.identity = identity_of(self.session)

    def open(self, tracker: Tracker) -> None:
        """Save the start, and open the callbacks."""
        self.observer.begin(self.progress.beginning)
        self._save()
        notes = (*self.session.notes, *self.progress.notes)
        self.session = replace(self.session, notes=notes)
        self.session = replace(self.session, notes=(*notes, *tracker.open(self.session.config)))
        by = []
        for callback in self.callbacks:
            with self._named(callback, "on_start"):
                if callback.on_start(self.session, self.progress.beginning):
                    by.append(callback.reason)
        self._stop(by)

    def play(self) -> bool:
        """Run the remaining rounds, each committed completely or not at all; return whether a callback stopped it."""
        if self.stopped is not None:
            return True
        for state, result in rounds(self.session, self.progress.state):
            with self.interrupts.held_back():
                self.folder.add_round(result)
                self.progress = self.progress.after(state, result)
                self.progress.energy.joules()  # its counters start again and again
                self.observer.add(result)
                if len(self.progress.results) % self.session.settings.checkpoint_every == 0:
                    self._save()
            self._tell(state, result)
            if self.stopped is not None:
                return True
        return False

    def _tell(self, state: RunState, record: RoundRecord) -> None:
        """Call every callback with a round, any of which may stop the run."""
        for callback, error in self.observer.failures:
            with self._named(callback, "on_progress"):
                raise error
        by = []
        for callback in self.callbacks:
            with self._named(callback, "on_round"):
                if callback.on_round(state, record):
                    by.append(callback.reason)
        self._stop(by)

    def _stop(self, by: Sequence[str]) -> None:
        """Note by what the run is stopped, if it has rounds left."""
        done, rounds = self.progress.state.round, self.session.settings.rounds
        if by and done < rounds:
            self.stopped = f"stopped after round {done} of {rounds} by {', '.join(by)}"
            self.session = replace(self.session, notes=(*self.session.notes, self.stopped))

    @contextmanager
    def _named(self, callback: Callback, method: str) -> Iterator[None]:
        """Turn an exception of a user's callback into a ``CallbackError``; raise those of the run's own unchanged."""
        try:
            yield
        except Exception as error:  # an error of the callback, not of the run
            if isinstance(error, FedhelloError) and isinstance(callback, (Progress, Tracker)):
                raise
            raise CallbackError(
                f"the callback {type(callback).__name__} failed in {method}: {type(error).__name__}: {error}. The "
                f"finished rounds are kept; fix it and resume {self.folder.path}."
            ) from error

    def end(self, status: Status, failure: Exception | None) -> Summary:
        """Write the results and report them."""
        self.observer.on_phase("saving")
        try:
            self._save()
        except RunFolderError as error:
            status, failure = "failed", failure or error
        session, progress = self.session, self.progress
        session = replace(session, notes=(*session.notes, *session.engine.happened))
        seconds = progress.wall_seconds
        found = session, progress.beginning, progress.results
        summary = summarise(*found, state=progress.state, wall_seconds=seconds, status=status)
        summary = summary.but(error=None if failure is None else f"{type(failure).__name__}: {failure}")
        summary = summary.but(stopped=self.stopped if status == "stopped" else None)
        try:
            summary = self._close(summary)
        except FedhelloError as error:
            failure = failure or error
        if failure is not None:
            raise failure
        return summary

    def _close(self, summary: Summary) -> Summary:
        """Write the folder's last files, call every callback, and return the complete summary."""
        session, progress = self.session, self.progress
        models = session.method.models(progress.state, session.federation)
        domains = domain_scores(session, progress.state) if progress.results else {}
        # Scoring may leave another model in memory; if the run has one model, it is the adapter.
        last = next(iter(models.values())) if len(models) == 1 else progress.state.adapter
        session.model.write(last.tensors)
        asked = session.server.questions if summary.status in ("finished", "stopped") else ()
        if not progress.answers:  # a run saved by hand has no answers from before training
            asked = ()
        if asked and len(models) > 1:
            asked = ()
            said = "the run has several models, which do not answer the test prompts after training"
            summary = summary.but(notes=(*summary.notes, said))
        answers = compared(asked, progress.answers, answer(session) if asked else ())
        summary = summary.but(
            domains=domains,
            changes=progress.changes,
            energy_joules=progress.energy.joules(),
            notes=(*summary.notes, *progress.energy.notes),
            forgotten=progress.state.forgotten,
            weights=self.identity["model"]["weights"],
            rouge_l=None if answers is None else answers.scores(),
        )
        failure: RunFolderError | None = None
        try:
            heads = progress.state.personal_heads
            self.folder.finish(session, summary, models, heads, answers, progress.confusion)
        except RunFolderError as error:
            failure = RunFolderError(
                f"{error}. All rounds are kept; put this right and finish without training anew: fedhello resume "
                f"{self.folder.path}"
            )
            summary = summary.but(status="failed", error=f"RunFolderError: {error}")
            with suppress(RunFolderError):  # there may be no room for it either; the error is raised below
                self.folder.write_summary(summary)
        try:
            self._tell_the_end(summary)
        except FedhelloError as error:
            if failure is None:
                raise
            raise failure from error
        if failure is not None:
            raise failure
        return summary

    def _tell_the_end(self, summary: Summary) -> None:
        """Call every callback even if another raises; the first error is raised."""
        self.observer.end()
        failure: BaseException | None = None
        for callback in reversed(self.callbacks):
            try:
                with self._named(callback, "on_end"):
                    callback.on_end(summary)
            except BaseException as error:  # raised again after the other callbacks
                failure = failure or error
        if failure is not None:
            raise failure

    def _save(self) -> None:
        """Save a checkpoint, unless nothing has changed since the last one."""
        done = len(self.progress.results)
        if self.saved != done:
            self.checkpoints.save(self.progress.checkpoint(self.identity))
            self.saved = done
