"""Play a prepared session to its end: rounds, observers, folder; and end well when interrupted."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from fedhello.run.answers import answer, compared
from fedhello.run.folder import RunFolder
from fedhello.run.rounds import Beginning, RoundResult, domain_scores, rounds, start
from fedhello.run.session import Session
from fedhello.run.summary import summarise
from fedhello.run.tracking import Tracker, check_installed


class Observer(Protocol):
    """Something that only watches: a progress display, a tracker."""

    def on_start(self, session: Session, beginning: Beginning) -> None:
        """Called once before the first round."""

    def on_round(self, result: RoundResult) -> None:
        """Called after each round."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """Called once after the last round, also of an interrupted or failed run."""


def play(session: Session, folder: RunFolder, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """Run all rounds, fill the folder and hand each round to the sinks that ``run.track`` names.

    Ctrl-C or an error in a round abandons that round; the rounds before it are kept, with their adapter.

    Returns:
        The summary; its ``status`` is ``finished`` or ``interrupted``.

    Raises:
        MissingExtraError: If ``run.track`` names a tool that is not installed; nothing has been written then.
        Exception: What a round failed with; the folder then holds a summary with the status ``failed``.
    """
    track = session.config.run.track
    check_installed(track)
    begin = time.perf_counter()
    beginning = start(session)
    state = beginning.state
    before = answer(session)
    folder.begin(session)
    tracker = Tracker(track, folder.path, lambda line: _warn(folder, line))
    # Tools open before the display and close after it: some ask for a key, and some take their time to upload.
    observers = [tracker, *observers]
    results: list[RoundResult] = []
    status, failure = "finished", None
    try:
        session = replace(session, notes=(*session.notes, *tracker.open(session.config)))
        for observer in observers:
            observer.on_start(session, beginning)
        for after, result in rounds(session, state):
            folder.add_round(result)
            state = after
            results.append(result)
            for observer in observers:
                observer.on_round(result)
    except KeyboardInterrupt:
        status = "interrupted"
    except Exception as error:  # whatever it was, the finished rounds are worth keeping; it is raised again below
        status, failure = "failed", error
    session.model.write(state.adapter.tensors)
    seconds = time.perf_counter() - begin
    summary = summarise(session, beginning, results, wall_seconds=seconds, status=status)
    summary["error"] = None if failure is None else f"{type(failure).__name__}: {failure}"
    answers = compared(session.server.questions, before, answer(session)) if status == "finished" else None
    summary["domains"] = domain_scores(session, state) if results else {}
    summary["rouge_l"] = None if answers is None else answers.summary()
    try:
        folder.finish(session, summary, session.method.models(state, session.federation), answers)
    finally:
        for observer in reversed(observers):
            observer.on_end(summary)
    if failure is not None:
        raise failure
    return summary


def _warn(folder: RunFolder, line: str) -> None:
    """Log what a user must hear of, and say it on standard error, whatever else is shown."""
    folder.log(f"note: {line}")
    sys.stderr.write(f"note: {line}\n")
