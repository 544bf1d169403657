from dataclasses import replace

import pytest
from pydantic import ValidationError

from fedhello.methods import METHODS
from fedhello.strategy import ALL_OR_NOTHING, STEPS


def test_options_of_one_name_must_agree():

    def other_default(t: int, *, warmup: int = 3) -> bool:
        return False

    method = replace(METHODS["fed-hello"], scores_due=other_default)
    with pytest.raises(TypeError, match="option warmup of fed-hello"):
        _ = method.options


def test_binding_fills_options_in_and_refuses_what_there_is_not():
    bound = METHODS["fed-hello"].bind(warmup=2, refresh=3)
    assert [t for t in range(9) if bound.scores_due(t)] == [2, 5, 8]
    for wrong in ({"warmpu": 2}, {"warmup": -1}, {"warmup": 2.0}, {"persist": 1}):
        with pytest.raises(ValidationError, match="1 validation error"):
            METHODS["fed-hello"].bind(**wrong)


def test_a_server_that_searches_may_take_steps_between_where_factors_are_averaged_alone():
    """Between two factorisations is no model, what was merged cannot be taken back, several models have no one loss."""
    steps = {name: METHODS[name].steps for name in ("rgd-hla", "flexlora", "flora", "local-only")}
    assert steps == {"rgd-hla": STEPS, "flexlora": ALL_OR_NOTHING, "flora": (), "local-only": ()}
