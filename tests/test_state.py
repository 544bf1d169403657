from dataclasses import replace

import torch

from fedhello.state import RunState
from fedhello.types import Adapter


def test_the_model_is_the_selected_one_where_one_is_selected():
    last, best = (Adapter({"a": torch.full((1,), value)}, {"a": 0}) for value in (1.0, 2.0))
    state = RunState(3, last)
    assert state.model is last
    assert replace(state, selected=best).model is best


def test_states_share_no_mapping_that_one_could_fill_for_the_other():
    one, other = (RunState(0, Adapter({}, {})) for _ in range(2))
    assert one.method_state == other.method_state == {}
    assert one.method_state is not other.method_state
