"""The rounds of a run under differential privacy in its ledger."""

from dataclasses import replace

from fedhello.runs.private_heads import ledger_of
from fedhello.session import Session
from fedhello.state import RunState


def released_round(session: Session, state: RunState) -> RunState:
    """Return a state with one more round in its ledger, and its Fisher scores, before anything of it is released.

    An attempt that fails, or that is undone afterwards, was released all the same.

    Raises:
        PrivacyError: If the budget does not cover it.
    """
    private = session.private
    if private is None or private.rounds is None:
        return state
    ledger = ledger_of(private, state)
    if private.scores is not None and session.method.scores_due(state.round):
        ledger = ledger.spent(private.scores)
    if private.rounds.due(state.round, state.attempt):
        ledger = ledger.spent(private.rounds.release)
    return replace(state, releases=ledger.releases)


def with_lost_rounds(session: Session, state: RunState, lost: int) -> RunState:
    """Return a state with releases of rounds that its checkpoint does not know, but that were played and written.

    With banded noise each of them counts as one more release, since its noise is not known either, and those who were
    in it may be in the same round anew.

    Which of them had Fisher scores is not known either, so all count as if they had: never less than was released.

    Args:
        session: The session.
        state: Of a checkpoint.
        lost: How many such rounds there are.
    """
    private = session.private
    if private is None or private.rounds is None or lost <= 0:
        return state
    scores = [] if private.scores is None else [replace(private.scores, times=lost)]
    return replace(state, releases=(*state.releases, *scores, replace(private.rounds.release, times=lost)))
