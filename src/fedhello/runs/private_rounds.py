"""The rounds of a run under differential privacy in its ledger."""

from dataclasses import replace

import torch

from fedhello.algorithm import sample_clients
from fedhello.client.private_training import median_length
from fedhello.privacy.rounds import CLIP
from fedhello.privacy.samples import PrivateSteps
from fedhello.runs.private_heads import ledger_of
from fedhello.session import Session
from fedhello.state import RunState
from fedhello.types import Allocation


def released_round(session: Session, state: RunState) -> RunState:
    """Return a state with one more round in its ledger, and its Fisher scores, before anything of it is released.

    An attempt that fails, or that is undone afterwards, was released all the same.

    Raises:
        PrivacyError: If the budget does not cover it.
    """
    private = session.private
    if private is None or (private.rounds is None and private.steps is None):
        return state
    ledger = ledger_of(private, state)
    if private.steps is not None:
        for client in sample_clients(session.federation, state.round, state.attempt):
            ledger = ledger.spent(private.steps.of(client.id))
        return replace(_with_clip(session, state, private.steps), releases=ledger.releases)
    assert private.rounds is not None
    if private.scores is not None and session.method.scores_due(state.round):
        ledger = ledger.spent(private.scores)
    if private.rounds.due(state.round, state.attempt):
        ledger = ledger.spent(private.rounds.release)
    return replace(state, releases=ledger.releases)


def with_lost_rounds(session: Session, state: RunState, lost: int) -> RunState:
    """Return a state with releases of rounds that its checkpoint does not know, but that were played and written.

    Which of them had Fisher scores is not known either, so all count as if they had, and where single samples are
    protected as if every client had been part of each: never less than was released. With banded noise each of them is
    one more release, since its noise is not known either, and who was in it may be in the same round anew.

    Args:
        session: The session.
        state: Of a checkpoint.
        lost: How many such rounds there are.
    """
    private = session.private
    if private is None or lost <= 0:
        return state
    if private.steps is not None:
        everyone = [private.steps.of(client.id, lost) for client in session.federation.clients]
        return replace(state, releases=(*state.releases, *everyone))
    if private.rounds is None:
        return state
    scores = [] if private.scores is None else [replace(private.scores, times=lost)]
    return replace(state, releases=(*state.releases, *scores, replace(private.rounds.release, times=lost)))


def _with_clip(session: Session, state: RunState, how: PrivateSteps) -> RunState:
    """Return a state with C, from the gradients on the server's own samples before the first round."""
    if how.clip is not None or CLIP in state.method_state:
        return state
    model, server, L = session.model, session.server, session.federation.num_blocks
    model.write(state.adapter.tensors)
    blocks = range(L - min(how.last_blocks or L, L), L)
    names = state.adapter.names(Allocation(tuple(blocks), factors=how.factors, head=False))
    data = server.proxy if len(server.proxy) else server.validation
    found = median_length(model, names, data, session.engine.settings)
    clip = torch.tensor(max(found, LEAST_CLIP), dtype=torch.float64)
    return replace(state, method_state={**state.method_state, CLIP: clip})


LEAST_CLIP = 1e-9
"""C is not smaller, so that it is a length also where no gradient is left."""
