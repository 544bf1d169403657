"""Model selection: the run returns the model that is best on the server's validation data, not the last one.

With ℓ_i = −log p of validation sample i, a model replaces the selected one if the mean of d_i = ℓ_i(selected) −
ℓ_i(model) is more than z = 3 of its standard errors above 0 (``aggregation.server.sure_gain``). A normal mean exceeds 3
by chance once in 740 tests, and a run tests some tens of models on the same samples. Training always continues from the
last adapter: under label skew a round that improves some classes may worsen others, and the gain shows some rounds
later. This is early stopping with unlimited patience, with a rule of standard errors instead of the minimum, as in
Breiman et al. (Classification and Regression Trees, 1984).
"""

from dataclasses import replace

from torch import Tensor

from fedhello.aggregation.server import sure_gain
from fedhello.model.validation import ValidationLosses
from fedhello.session import Session
from fedhello.state import RunState

ERRORS = 3.0
"""z."""


def first_selection(session: Session, state: RunState) -> RunState:
    """Return a state with a selected model, if models are selected: its own model unless one is selected already."""
    if not session.settings.selects or state.selected is not None:
        return state
    losses = session.losses
    if session.keeps_head and not state.round:  # not the head that drift compensation would solve
        losses = ValidationLosses(session.model, session.server.validation, session.bfloat16)
    return _selecting(state, losses(state.adapter).double())


def selection_after(session: Session, state: RunState) -> RunState:
    """Return a state after a round, with its own model selected if it is surely better."""
    before = state.selected_losses
    if state.selected is None or before is None:
        return state
    losses = session.losses(state.adapter).double()
    if sure_gain(before - losses, ERRORS) <= 0:
        return state
    return _selecting(state, losses)


def _selecting(state: RunState, losses: Tensor) -> RunState:
    return replace(state, selected=state.adapter, selected_losses=losses, selected_round=state.round)
