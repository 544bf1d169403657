import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import ROLES, SAVED, costs, every_allocation

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import OPTIONS, cheapest, plan
from fedhello.types import Budget


def worth(allocation, v, c):
    return sum(v[l] for l in allocation.blocks), -needs(c, allocation).flops


@settings(max_examples=150, deadline=None)
@given(
    v=st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0, 2.5, 4.0]), min_size=1, max_size=5),
    rule=st.sampled_from(sorted(OPTIONS)),
    blocks=st.none() | st.integers(0, 5),
    memory=st.none() | st.integers(30, 650),
    upload=st.none() | st.integers(2, 20),
    seconds=st.none() | st.integers(40, 150),
    shared=st.booleans(),
    uneven=st.booleans(),
    more=st.sampled_from(
        [
            {},
            {"reserve": 25},
            {"below": 40},
            {"margin": {"recompute": 35, "compress": 12}},
            {"below": 9, "below_each": 30, "left": {("keep", "frozen"): 20, ("keep", "trained"): 15}},
            {"saved": {(p, r): SAVED[p][r] + 23 * ((p, r) == ("recompute", "lowest")) for p in SAVED for r in ROLES}},
            {"copies": 30, "update": 300},
        ]
    ),
)
def test_the_plan_is_the_best_of_all_that_fit(v, rule, blocks, memory, upload, seconds, shared, uneven, more):
    sizes = tuple(2 + 3 * l for l in range(len(v))) if uneven else (2,) * len(v)
    c = costs(
        len(v), head_shared=shared, block_bytes=sizes, block_upload=tuple(s + 1 for s in sizes),
        forward=rule == "forward", **more,
    )  # fmt: skip
    budget = Budget(blocks, memory, upload, seconds, 1.0)
    if budget.only_counts:
        return
    fitting = [a for a in every_allocation(v, rule, shared) if needs(c, a).within(budget)]
    if blocks is not None:
        fitting = [a for a in fitting if len(a.blocks) <= blocks]
    found = plan(budget, tuple(v), c, rule)
    if not fitting:
        assert found == cheapest(c, rule)
        return
    assert needs(c, found).within(budget)
    value, flops = max((worth(a, v, c) for a in fitting), key=lambda pair: (round(pair[0], 6), pair[1]))
    assert worth(found, v, c)[0] == pytest.approx(value)
    assert worth(found, v, c)[1] == flops


def test_more_budget_never_trains_less_of_what_is_wanted():
    rng = np.random.default_rng(0)
    for blocks in (6, 12, 24):
        v, c, last = tuple(rng.random(blocks)), costs(blocks), -1.0
        for memory in range(60, 120 * blocks, 40):
            found = plan(Budget(memory=memory), v, c, "auto")
            value = sum(v[l] for l in found.blocks)
            assert value >= last - 1e-9
            last = value
        assert len(found.blocks) == blocks
        assert set(found.policies) == {"keep"}


def test_forty_blocks_within_memory_time_and_upload():
    v, c = tuple(np.random.default_rng(1).random(40)), costs(40)
    budget = Budget(memory=1500, upload=90, seconds=900.0, speed=1.0)
    found = plan(budget, v, c, "auto")
    assert needs(c, found).within(budget)
    # Upload admits 28 blocks: the 28 most wanted, where time and memory do.
    assert len(found.blocks) == 28
    assert set(found.blocks) == set(np.argsort(v)[-28:])


def test_a_block_that_is_hardly_wanted_is_still_taken_where_it_fits():
    for v in [(1.0, 1e-10, 0.5, 1e-300, 0.5, 0.5), (1e-11,) * 6]:
        assert plan(Budget(memory=10**9), v, costs(6), "auto").blocks == (0, 1, 2, 3, 4, 5)
