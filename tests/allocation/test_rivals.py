"""FedQuad's depths and Fed-pilot's knapsack, against every choice there is."""

import itertools
from dataclasses import replace

import pytest
from planning import byte_federation

from fedhello.allocation.needs import needs
from fedhello.allocation.rivals import deepest, knapsack
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation


def at(world, k=0, **more):
    return AllocationContext(world.clients[k], world, 0, **more)


@pytest.mark.parametrize("rule", ["keep", "auto-compress"])
def test_fedquad_goes_as_deep_as_fits_and_compresses_as_few_as_that_takes(rule):
    depths = set()
    for memory in range(40, 700, 15):
        world = byte_federation([memory], blocks=4, rule=rule)
        found = deepest(at(world))
        choices = [((), ("keep",) * 4)]
        for d in range(1, 5):
            for q in range(d + 1) if rule != "keep" else (0,):
                policies = ("keep",) * (4 - d) + ("compress",) * q + ("keep",) * (d - q)
                choices.append((tuple(range(4 - d, 4)), policies))
        fitting = [Allocation(*c) for c in choices if needs(world.costs[0], Allocation(*c)).within(world.tiers[0])]
        best = max(fitting or [Allocation(*choices[0])], key=lambda a: (len(a.blocks), -a.policies.count("compress")))
        assert found == best
        depths.add(len(found.blocks))
    assert depths == {0, 1, 2, 3, 4}


def test_fedquad_leaves_closed_blocks_alone():
    world = byte_federation([10**6], blocks=4, rule="auto-compress")
    assert deepest(at(world)).blocks == (0, 1, 2, 3)
    assert deepest(at(world, closed=3)).blocks == (3,)


def test_fed_pilot_fills_a_knapsack_by_score():
    scores = (5.0, 1.0, 3.0, 2.0)
    for memory in range(60, 500, 20):
        world = byte_federation([memory], blocks=4, rule="keep")
        found = knapsack(at(world, scores=scores))
        sets = [S for n in range(5) for S in itertools.combinations(range(4), n)]
        fitting = [S for S in sets if needs(world.costs[0], Allocation(S)).within(world.tiers[0])]
        most = max((sum(scores[l] for l in S) for S in fitting), default=0.0)
        assert sum(scores[l] for l in found.blocks) == most
    counted = replace(world, tiers=(replace(world.tiers[0], memory=None, blocks=2),), costs=())
    client = replace(world.clients[0], budget=counted.tiers[0])
    assert knapsack(AllocationContext(client, replace(counted, clients=(client,)), 0, scores)).blocks == (0, 2)
    with pytest.raises(ValueError, match="Fed-pilot needs Fisher scores"):
        knapsack(at(world))
