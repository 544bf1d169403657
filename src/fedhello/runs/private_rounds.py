"""The rounds of a run under differential privacy in its ledger."""

from dataclasses import replace

from fedhello.runs.private_heads import ledger_of
from fedhello.session import Session
from fedhello.state import RunState


def released_round(session: Session, state: RunState) -> RunState:
    """Return a state with one more round in its ledger, before anything of that round is released.

    An attempt that fails, or that is undone afterwards, was released all the same.

    Raises:
        PrivacyError: If the budget does not cover it.
    """
    private = session.private
    if private is None or private.rounds is None:
        return state
    return replace(state, releases=ledger_of(private, state).spent(private.rounds.release).releases)
