"""Case 21, for rules: equal updates give that update, and no coordinate leaves the range of its contributors.

For the weighted mean, see ``tests/laws/test_aggregation_laws.py``.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.aggregation.robust import Defence, defended
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext
from fedhello.types import Adapter, Federation, Update

RULES = ["median", "trimmed-mean", "multi-krum"]
finite = st.floats(-1e3, 1e3, width=32)
few = settings(max_examples=50, deadline=None, derandomize=True)


def combined(rule, rows):
    context = AggregationContext(Adapter({"x": torch.zeros(2)}, {"x": 0}), Federation((), (), 1, 1, 0, quorum=3), 0, {})
    updates = [Update(k, 0, 1 + k, {"x": torch.tensor(row)}) for k, row in enumerate(rows)]
    found = defended(METHODS["full"].bind(), Defence(rule=rule, byzantine=2)).aggregate(context, iter(updates))
    assert found.flags == ()
    return found.adapter.tensors["x"]


@pytest.mark.parametrize("rule", RULES)
@few
@given(row=st.tuples(finite, finite), count=st.integers(7, 12))
def test_equal_updates_give_that_update(rule, row, count):
    assert torch.equal(combined(rule, [row] * count), torch.tensor(row))


@pytest.mark.parametrize("rule", RULES)
@few
@given(rows=st.lists(st.tuples(finite, finite), min_size=7, max_size=12))
def test_every_coordinate_lies_within_its_contributors(rule, rows):
    values = torch.tensor(rows)
    result = combined(rule, rows)
    assert bool((result >= values.min(dim=0).values - 1e-4).all())
    assert bool((result <= values.max(dim=0).values + 1e-4).all())
