import pytest
from planning import ROLES, SAVED, byte_federation, costs, every_allocation

from fedhello.allocation.geometric import gd_hla, rgd_hla
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import fit, fixed_policies, least_memory, plan
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget, Client, Federation


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
