"""Play a prepared session to its end: rounds, observers, folder; and end well when interrupted."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from fedhello.run.folder import RunFolder
from fedhello.run.rounds import Beginning, RoundResult, rounds, start
from fedhello.run.session import Session
from fedhello.run.summary import summarise


class Observer(Protocol):
    """Something that only watches: a progress display, a tracker."""

    def on_start(self, session: Session, beginning: Beginning) -> None:
        """Called once before the first round."""

    def on_round(self, result: RoundResult) -> None:
        """Called after each round."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """Called once after the last round, also of an interrupted or failed run."""


def play(session: Session, folder: RunFolder, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """Run all rounds and fill the folder.

    Ctrl-C or an error in a round abandons that round; the rounds before it are kept, with their adapter.

    Returns:
        The summary; its ``status`` is ``finished`` or ``interrupted``.

    Raises:
        Exception: What a round failed with; the folder then holds a summary with the status ``failed``.
    """
    begin = time.perf_counter()
    beginning = start(session)
    state = beginning.state
    folder.begin(session)
    for observer in observers:
        observer.on_start(session, beginning)
    results: list[RoundResult] = []
    status, failure = "finished", None
    try:
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
    try:
        folder.finish(session, summary)
    finally:
        for observer in observers:
            observer.on_end(summary)
    if failure is not None:
        raise failure
    return summary
