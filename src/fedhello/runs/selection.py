"""The model that a run hands back: not the last one, but the one that the server's validation data is surest of.

With ℓ_i = −log p of validation sample i, a model takes the place of the one that was selected before where the mean of
d_i = ℓ_i(selected) − ℓ_i(model) is more than z = 3 of its standard errors above 0 (``aggregation.server.sure_gain``):
a normal mean passes 3 by chance once in 740 looks, and some tens are taken at the same samples.
Training goes on from the last adapter either way: under skew a round that teaches some classes costs others something,
and only some rounds later all are better. That is early stopping with patience to the end, and a rule of standard
errors in place of the bare minimum, as Breiman et al. (Classification and Regression Trees, 1984) have one.
"""

from dataclasses import replace

from torch import Tensor

from fedhello.aggregation.server import sure_gain
from fedhello.session import Session
from fedhello.state import RunState

ERRORS = 3.0
"""z."""


def first_selection(session: Session, state: RunState) -> RunState:
    """Return a state in which something is selected, where models are: if nothing is yet, its own."""
    if not session.settings.selects or state.selected is not None:
        return state
    return _selecting(state, session.losses(state.adapter).double())


def selection_after(session: Session, state: RunState) -> RunState:
    """Return a state after a round, with its own model selected if that is surely better."""
    before = state.selected_losses
    if state.selected is None or before is None:
        return state
    losses = session.losses(state.adapter).double()
    if sure_gain(before - losses, ERRORS) <= 0:
        return state
    return _selecting(state, losses)


def _selecting(state: RunState, losses: Tensor) -> RunState:
    return replace(state, selected=state.adapter, selected_losses=losses, selected_round=state.round)
