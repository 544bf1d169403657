"""Play a prepared session to its end: rounds, callbacks, folder, checkpoints; and end well when interrupted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fedhello.errors import CallbackError, FedhelloError, RunFolderError
from fedhello.notes import logger
from fedhello.runs.answers import answer, compared
from fedhello.runs.callbacks import Callback
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.console import Progress
from fedhello.runs.folder import RunFolder
from fedhello.runs.interrupts import Interrupts
from fedhello.runs.loop import RoundRecord, domain_scores, rounds
from fedhello.runs.progress import Progress as Place
from fedhello.runs.progress import begin, identity_of
from fedhello.runs.summarise import Status, summarise
from fedhello.runs.summary import Summary
from fedhello.runs.tracking import Tracker, check_installed
from fedhello.session import Session
from fedhello.state import RunState


def run_session(
    session: Session, folder: RunFolder, callbacks: Sequence[Callback] = (), resumed: Place | None = None
) -> Summary:
    """Run all rounds, fill the folder and hand each round to the sinks that ``run.track`` names.

    Ctrl-C, SIGTERM or an error in a round abandons that round; the rounds before it are kept, with their adapter and a
    checkpoint. A second Ctrl-C ends everything at once; the checkpoint before stays.

    Args:
        session: With any engine.
        folder: Of a new run, or of ``resumed``.
        callbacks: Who watches, and may end it.
        resumed: What ``fedhello.runs.progress.restore_progress`` found; None starts a new run.

    Returns:
        The summary of all rounds, those of earlier processes too; its ``status`` is ``finished``, ``interrupted`` or,
        where a callback ended it, ``stopped``.

    Raises:
        MissingExtraError: If ``run.track`` names a tool that is not installed; nothing has been written then.
        RunFolderError: If the folder cannot be written, or another process writes to it.
        CallbackError: If a callback raised; the folder then holds a summary with the status ``failed``.
        Exception: What a round failed with; likewise.
    """
    check_installed(session.settings.track)
    progress = begin(session) if resumed is None else resumed
    if resumed is None:
        folder.begin(session)
    with folder.locked(), Interrupts() as interrupts:
        tracker = Tracker(session.settings.track, folder.path, lambda line: warn(folder, line))
        # Tools open before the display and close after it: some ask for a key, and some take their time to upload.
        run = _Run(session, folder, [tracker, *callbacks], interrupts, progress)
        status: Status = "finished"
        failure: Exception | None = None
        try:
            run.open(tracker)
            status = "stopped" if run.play() else "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        except Exception as error:  # of whatever kind: the finished rounds are kept, and it is raised again below
            status, failure = "failed", error
        return run.end(status, failure)


def warn(folder: RunFolder, line: str) -> None:
    """Log a warning, in the folder's log and under the logger ``fedhello``."""
    folder.log(f"note: {line}")
    logger.warning(line)


@dataclass
class _Run:
    """A run on its way.

    Attributes:
        session: The session.
        folder: Locked.
        callbacks: Who watches.
        interrupts: What may end it.
        progress: How far it has come.
        saved: How many results the last checkpoint of this process covers; None before it.
    """

    session: Session
    folder: RunFolder
    callbacks: Sequence[Callback]
    interrupts: Interrupts
    progress: Place
    saved: int | None = None
    checkpoints: Checkpoints = field(init=False)
    identity: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder.checkpoints, self.session.settings.keep)
        self.identity = identity_of(self.session)

    def open(self, tracker: Tracker) -> None:
        """Save where it starts, and open what shows it."""
        self._save()
        notes = (*self.session.notes, *self.progress.notes)
        self.session = replace(self.session, notes=notes)
        self.session = replace(self.session, notes=(*notes, *tracker.open(self.session.config)))
        for callback in self.callbacks:
            with self._named(callback, "on_start"):
                callback.on_start(self.session, self.progress.beginning)

    def play(self) -> bool:
        """Play the rounds that are left; each counts completely or not at all. Return whether a callback ended it."""
        for state, result in rounds(self.session, self.progress.state):
            with self.interrupts.held_back():
                self.folder.add_round(result)
                self.progress = self.progress.after(state, result)
                if len(self.progress.results) % self.session.settings.checkpoint_every == 0:
                    self._save()
            if self._told(state, result) and state.round < self.session.settings.rounds:
                return True
        return False

    def _told(self, state: RunState, record: RoundRecord) -> bool:
        """Tell every callback of a round; return whether one wants no more, which the notes say."""
        by = []
        for callback in self.callbacks:
            with self._named(callback, "on_round"):
                if callback.on_round(state, record):
                    by.append(type(callback).__name__)
        if by and state.round < self.session.settings.rounds:
            said = f"stopped after round {state.round} of {self.session.settings.rounds} by {', '.join(by)}"
            self.session = replace(self.session, notes=(*self.session.notes, said))
        return bool(by)

    @contextmanager
    def _named(self, callback: Callback, method: str) -> Iterator[None]:
        """Say whose error it is, of whatever kind; what the run shows and tracks itself speaks for the run."""
        try:
            yield
        except Exception as error:  # whatever it is, it must not pass for an error of the run
            if isinstance(error, FedhelloError) and isinstance(callback, (Progress, Tracker)):
                raise
            raise CallbackError(
                f"the callback {type(callback).__name__} failed in {method}: {type(error).__name__}: {error}. The "
                f"rounds before are kept; put it right and go on with {self.folder.path}."
            ) from error

    def end(self, status: Status, failure: Exception | None) -> Summary:
        """Write what it led to, and say so."""
        try:
            self._save()
        except RunFolderError as error:
            status, failure = "failed", failure or error
        session, progress = self.session, self.progress
        seconds = progress.wall_seconds
        summary = summarise(session, progress.beginning, progress.results, wall_seconds=seconds, status=status)
        summary = summary.but(error=None if failure is None else f"{type(failure).__name__}: {failure}")
        try:
            summary = self._close(summary)
        except FedhelloError as error:
            failure = failure or error
        if failure is not None:
            raise failure
        return summary

    def _close(self, summary: Summary) -> Summary:
        """Write the folder's last files, tell every callback, and return the whole summary."""
        session, progress = self.session, self.progress
        models = session.method.models(progress.state, session.federation)
        domains = domain_scores(session, progress.state) if progress.results else {}
        # Scoring may have left another model in it; one that the run leads to alone is its adapter.
        last = next(iter(models.values())) if len(models) == 1 else progress.state.adapter
        session.model.write(last.tensors)
        asked = session.server.questions if summary.status in ("finished", "stopped") else ()
        if not progress.answers:  # a run that was saved by hand does not know what was said before
            asked = ()
        if asked and len(models) > 1:
            asked = ()
            said = "the run leads to several models, which were not asked the test prompts again"
            summary = summary.but(notes=(*summary.notes, said))
        answers = compared(asked, progress.answers, answer(session) if asked else ())
        summary = summary.but(
            domains=domains,
            forgotten=progress.state.forgotten,
            weights=self.identity["model"]["weights"],
            rouge_l=None if answers is None else answers.scores(),
        )
        try:
            self.folder.finish(session, summary, models, progress.state.personal_heads, answers)
        finally:
            self._tell_the_end(summary)
        return summary

    def _tell_the_end(self, summary: Summary) -> None:
        """Tell every callback, whatever another raises; the first error counts."""
        failure: BaseException | None = None
        for callback in reversed(self.callbacks):
            try:
                with self._named(callback, "on_end"):
                    callback.on_end(summary)
            except BaseException as error:  # raised again, when the others have been told
                failure = failure or error
        if failure is not None:
            raise failure

    def _save(self) -> None:
        """Save a checkpoint, unless nothing has happened since the last."""
        done = len(self.progress.results)
        if self.saved != done:
            self.checkpoints.save(self.progress.checkpoint(self.identity))
            self.saved = done
