"""A run as events with fields, for logs that programs read."""

from collections.abc import Sequence
from typing import Any

from fedhello.notes import Line, logger
from fedhello.runs.callbacks import Callback
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.summary import Summary
from fedhello.session import ClientEntry, Session
from fedhello.state import RunState
from fedhello.types import Rejection


class Events(Callback):
    """Logs the start of a run, each round, each reply that does not count, each failed attempt, and the end.

    Rounds and clients count from 0 in fields, as in a run's files. Who took part in a round is not said under
    differential privacy, which counts on that being secret, while logs are kept and read by many.
    """

    def __init__(self) -> None:
        self._roster: Sequence[ClientEntry] = ()
        self._secret = False

    def on_start(self, session: Session, start: RunStart) -> None:
        """Log the run and its scores before the first round of this process."""
        self._roster, self._secret = session.roster, session.private is not None
        for note in session.notes:
            logger.warning(note)
        rounds = session.settings.rounds
        self._log(
            f"{session.row.name}: {rounds} rounds with {len(session.roster)} clients",
            event="started",
            method=session.row.name,
            round=start.state.round,
            rounds=rounds,
            clients=len(session.roster),
            test_accuracy=start.test.accuracy,
            validation_accuracy=start.validation.accuracy,
        )

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Log an attempt at a round."""
        report = record.report
        where: dict[str, Any] = {"round": report.round, "attempt": report.attempt}
        for rejection in report.rejections:
            logger.warning(self._rejected(rejection, where))
        for flag in report.flags:
            logger.warning(Line(flag, event="flag", **where))
        if report.failed is not None:
            words = f"round {report.round + 1} failed: {report.failed}"
            logger.warning(Line(words, event="failed attempt", reason=report.failed, **where))
            return
        self._log(
            f"round {report.round + 1} finished",
            event="round",
            **where,
            **({} if self._secret else {"clients": [one.client for one in report.clients]}),
            train_loss=record.train_loss,
            validation_accuracy=None if record.validation is None else record.validation.accuracy,
            test_accuracy=None if record.test is None else record.test.accuracy,
            bytes_up=sum(one.bytes_up for one in report.clients) + report.score_bytes_up,
            bytes_down=sum(one.bytes_down for one in report.clients) + report.score_bytes_down,
            seconds=round(record.seconds, 3),
            evaluation_seconds=round(record.evaluation_seconds, 3),
        )

    def on_end(self, summary: Summary) -> None:
        """Log how the run ended."""
        words = f"{summary.status} after {summary.rounds} rounds"
        self._log(
            words,
            event="ended",
            status=summary.status,
            rounds=summary.rounds,
            test_accuracy=summary.final,
            seconds=round(summary.wall_seconds, 3),
            reason=summary.error or summary.stopped,
        )

    def _rejected(self, rejection: Rejection, where: dict[str, Any]) -> Line:
        if self._secret:
            words = f"the reply of a client does not count: {rejection.reason}"
            return Line(words, event="rejected", reason=rejection.reason, **where)
        facts = next((entry.facts for entry in self._roster if entry.client == rejection.client), None) or {}
        name = facts.get("name")
        who = f"client {rejection.client}" + (f" ({name})" if name else "")
        return Line(
            f"the reply of {who} does not count: {rejection.reason}; {rejection.detail}",
            event="rejected",
            client=rejection.client,
            name=name,
            reason=rejection.reason,
            detail=rejection.detail,
            **where,
        )

    def _log(self, words: str, **fields: Any) -> None:
        logger.info(Line(words, **fields))
