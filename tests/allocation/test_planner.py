import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.allocation.geometric import gd_hla, rgd_hla
from fedhello.allocation.needs import measured_excess, most_flops, needs
from fedhello.allocation.planner import OPTIONS, cheapest, fit, fixed_policies, least_memory, plan
from fedhello.allocation.reasons import front, reasons
from fedhello.costs import Costs
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget, Client, ClientReport, Federation, Rejection

ROLES = ("lowest", "trained", "frozen")
SAVED = {
    "keep": {"lowest": 70, "trained": 100, "frozen": 80},
    "recompute": dict.fromkeys(ROLES, 8),
    "compress": {"lowest": 20, "trained": 30, "frozen": 24},
}
TRANSIENT = {"keep": 15, "recompute": 95, "compress": 60}
AGAIN = {"keep": 0, "recompute": 9, "compress": 1}
BACKWARD = {"lowest": 6, "trained": 12, "frozen": 10}


def costs(blocks, **changed):
    kinds = [(policy, role) for policy in SAVED for role in ROLES]
    values = {
        "saved": {(p, r): SAVED[p][r] for p, r in kinds},
        "transient": {(p, r): TRANSIENT[p] for p, r in kinds},
        "flops": {(p, r): BACKWARD[r] + AGAIN[p] for p, r in kinds},
        "outside": 5, "outside_head_only": 3, "head_only_peak": 40, "flops_outside": 50,
        "block_bytes": (2,) * blocks, "reserve": 0, "head_bytes": 1, "head_shared": True, "moments": 2,
        "block_upload": (3,) * blocks, "fixed_upload": 4,
    }  # fmt: skip
    return Costs(**values | changed)


def test_needs_by_hand():
    allocation = Allocation((1, 3), ("keep", "keep", "recompute", "keep"))
    found = needs(costs(4), allocation)
    assert found.saved_bytes == 5 + 70 + 8 + 100
    # Backward at block 3: all is held, and 15 more; at block 2: 83 held, 95 more, and block 3's gradients.
    assert found.peak_bytes == max(5 + 178 + 15, 5 + 78 + 95 + 2) + 2 * (2 + 2 + 1)
    assert found.memory_bytes == found.peak_bytes
    assert needs(costs(4, reserve=7), allocation).memory_bytes == found.peak_bytes + 7
    assert found.flops == 50 + 6 + (10 + 9) + 12
    assert found.upload_bytes == 4 + 3 + 3
    head = needs(costs(4), Allocation((), ("keep",) * 4))
    assert (head.saved_bytes, head.peak_bytes, head.flops, head.upload_bytes) == (3, 40 + 2, 50, 4)


def test_the_optimisers_step_may_need_more_than_backward():
    """Gradients and two moments of large factors, where activations are few."""
    large, everything = costs(4, block_bytes=(500,) * 4), Allocation((0, 1, 2, 3), ("recompute",) * 4)
    trained = 4 * 500 + 1
    backward = 5 + 8 + 3 * 8 + 95 + 3 * 500 - 3 * 8  # at block 0: the others' activations are gone, not their gradients
    assert backward < trained
    assert needs(large, everything).peak_bytes == trained + 2 * trained
    assert needs(large, everything, first_step=True).peak_bytes == trained + 2 * trained
    small = costs(4)
    assert needs(small, everything, first_step=True).peak_bytes == needs(small, everything).peak_bytes - 2 * 9


def every_allocation(v, rule, can_train_head):
    L = len(v)
    for n in range(L + 1):
        for S in itertools.combinations(range(L), n):
            if any(v[l] <= 0 for l in S) or (not S and not can_train_head):
                continue
            lowest = min(S, default=L)
            choices = [("keep",)] * lowest
            choices += [OPTIONS[rule]["trained" if l in S else "frozen"] for l in range(lowest, L)]
            for policies in itertools.product(*choices):
                yield Allocation(S, policies)


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
    reserve=st.sampled_from([0, 25]),
)
def test_the_plan_is_the_best_of_all_that_fit(v, rule, blocks, memory, upload, seconds, shared, uneven, reserve):
    sizes = tuple(2 + 3 * l for l in range(len(v))) if uneven else (2,) * len(v)
    c = costs(len(v), head_shared=shared, reserve=reserve, block_bytes=sizes, block_upload=tuple(s + 1 for s in sizes))
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


def test_a_number_of_blocks_takes_the_most_preferred():
    assert plan(Budget(blocks=2), (0.1, 0.9, 0.5, 0.9), None) == Allocation((1, 3), ("keep",) * 4)
    assert plan(Budget(blocks=3), (0.0, 1.0, 0.0, 1.0), None).blocks == (1, 3)
    assert plan(Budget(blocks=0), (1.0, 1.0), None).blocks == ()
    with pytest.raises(ValueError, match="costs"):
        plan(Budget(memory=100), (1.0, 1.0), None)


def test_policies_of_a_rule_by_hand():
    assert fixed_policies("keep", (1, 3), 5) == ("keep",) * 5
    assert fixed_policies("auto", (1, 3), 5) == ("keep",) * 5
    assert fixed_policies("recompute", (1, 3), 5) == ("keep", *("recompute",) * 4)
    assert fixed_policies("recompute-frozen", (1, 3), 5) == ("keep", "keep", "recompute", "keep", "recompute")
    assert fixed_policies("compress", (3,), 5) == ("keep", "keep", "keep", "compress", "compress")
    assert fixed_policies("recompute", (), 3) == ("keep",) * 3


def test_without_seconds_time_does_not_bind():
    assert most_flops(Budget(memory=1)) == float("inf")
    assert most_flops(Budget(seconds=2.0, speed=5.0)) == 10


def byte_federation(memories, blocks=6, rule="auto", **more):
    tiers = tuple(Budget(memory=m, **more) for m in memories)
    clients = tuple(Client(k, k, tier, samples=1) for k, tier in enumerate(tiers))
    c = costs(blocks)
    return Federation(clients, tiers, blocks, len(clients), 0, rule, (c,) * len(tiers))


@pytest.mark.parametrize("strategy", [gd_hla, rgd_hla])
@pytest.mark.parametrize("pattern", ["triangle", "inverted_triangle", "bottleneck", "uniform"])
def test_every_allocation_fits_its_budget(strategy, pattern):
    world = byte_federation([45, 100, 160, 400, 700])
    for t in range(20):
        for client in world.clients:
            found = strategy(AllocationContext(client, world, t), pattern=pattern)
            assert needs(world.costs[client.tier], found).within(client.budget)
    assert len(strategy(AllocationContext(world.clients[4], world, 0), pattern=pattern).blocks) == 6
    assert strategy(AllocationContext(world.clients[0], world, 0), pattern=pattern).blocks == ()


def test_under_keep_a_small_budget_leaves_only_blocks_near_the_output():
    world = byte_federation([200], rule="keep")
    drawn = {
        gd_hla(AllocationContext(world.clients[0], world, 0), pattern=p).blocks for p in ("triangle", "bottleneck")
    }
    assert drawn == {(4, 5)}


def test_what_went_over_budget_is_planned_smaller():
    world = byte_federation([300])
    client = world.clients[0]
    before = needs(world.costs[0], fit(AllocationContext(client, world, 0), (1.0,) * 6))
    after = needs(world.costs[0], fit(AllocationContext(client, world, 0, excess=1.5), (1.0,) * 6))
    assert after.peak_bytes * 1.5 <= 300 < before.peak_bytes * 1.5


def test_excess_by_hand():
    world = byte_federation([300, 300, 300])
    report = [
        ClientReport(k, k, (), (), 1, {"peak_bytes": peak, "predicted_memory_bytes": 250.0} | more, 0, 0)
        for k, (peak, more) in enumerate([(300.0, {}), (301.0, {}), (100.0, {"process_bytes": 500.0})])
    ]
    assert measured_excess(world, report, {}) == {1: 301 / 250, 2: 2.0}
    assert measured_excess(world, report, {0: 3.0, 1: 1.5, 2: 1.5}) == {1: 1.5, 2: 2.0}
    counted = Federation(world.clients, (Budget(2),) * 3, 6, 3, 0)
    assert measured_excess(counted, report, {}) == {}


def test_a_block_that_is_hardly_wanted_is_still_taken_where_it_fits():
    for v in [(1.0, 1e-10, 0.5, 1e-300, 0.5, 0.5), (1e-11,) * 6]:
        assert plan(Budget(memory=10**9), v, costs(6), "auto").blocks == (0, 1, 2, 3, 4, 5)


def test_a_tier_without_clients_has_no_say_in_the_draw():
    c = costs(6)
    tiers = (Budget(6), Budget(0))
    world = Federation((Client(0, 1, tiers[1], samples=1),), tiers, 6, 1, 0, "keep", (c, c))
    for weighting in ("equal", "clients"):
        assert rgd_hla(AllocationContext(world.clients[0], world, 0), tier_weighting=weighting).blocks == ()


def test_the_least_memory_is_the_least():
    c = costs(3, transient={(p, r): (115 if p == "recompute" else 15) for p in SAVED for r in ROLES})
    for blocks in [(0,), (2,), (0, 2), (0, 1, 2)]:
        v = tuple(1.0 if l in blocks else 0.0 for l in range(3))
        ways = [needs(c, a).memory_bytes for a in every_allocation(v, "auto", True) if a.blocks == blocks]
        assert needs(c, least_memory(blocks, c, "auto")).memory_bytes == min(ways)


def test_reasons_name_what_binds():
    c, wanted = costs(6), (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)

    def said(budget, rule="auto", preference=wanted):
        return reasons(plan(budget, preference, c, rule), budget, preference, c, rule)

    assert said(Budget(memory=10**6)) == ["every block that the method wants is trained"]
    # 3 and 4 are trained. With 0: it holds 70, the frozen 1, 2 and 5 hold 80 each, 3 and 4 hold 100 each.
    kept = 5 + 70 + 3 * 80 + 2 * 100 + 15 + 2 * (3 * 2 + 1)
    sentence = f"block 0 as well, wanted next, would take at least {kept} B of memory"
    assert said(Budget(memory=300), "keep")[0] == sentence
    assert said(Budget(memory=10**6, upload=11))[0].endswith("would take at least 13 B of upload")
    assert "at least" in said(Budget(memory=10**6, seconds=100.0, speed=1.0))[0]
    assert said(Budget(blocks=2, memory=10**6))[0] == "the budget counts 2 blocks"
    recomputed = said(Budget(memory=300))
    assert any(s.startswith("recomputing block") and "more computation" in s for s in recomputed)
    ends = (2.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    reach = said(Budget(memory=10**6), preference=ends)
    assert reach[1].startswith("block 0 costs ")
    assert reach[1].endswith("because back-propagation must reach it through blocks 1–4")


def test_the_front_has_no_point_that_another_beats():
    c, v = costs(6), (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    points = front(v, c, "auto")
    assert {len(p.allocation.blocks) for p in points} >= {0, 6}
    for point in points:
        assert point.allocation.blocks == tuple(range(len(point.allocation.blocks)))
    alone = front(v, costs(6, head_shared=False), "auto")
    assert min(len(p.allocation.blocks) for p in alone) == 1
    assert all(p.allocation.blocks[0] == 0 for p in alone)
    keys = [(p.needs.peak_bytes, p.needs.flops, -len(p.allocation.blocks)) for p in points]
    assert len(set(keys)) == len(keys)
    for one, other in itertools.permutations(keys, 2):
        assert not all(a <= b for a, b in zip(one, other, strict=True))


def test_each_time_a_client_runs_out_of_memory_it_is_planned_a_quarter_smaller(federation):
    out = [Rejection(1, 0, "over budget"), Rejection(0, 0, "lost")]
    world = federation([1, 1], blocks=2)
    assert measured_excess(world, [], {}, out) == {1: 1.25}
    assert measured_excess(world, [], {1: 2.0}, out) == {1: 2.5}
