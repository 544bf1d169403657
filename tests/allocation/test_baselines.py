from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhello.allocation.baselines import (
    everything,
    last_blocks,
    only_the_able,
    random_blocks,
    random_sub_model,
    spaced_blocks,
    weakest_for_all,
)
from fedhello.allocation.geometric import gd_hla
from fedhello.allocation.needs import needs
from fedhello.methods import METHODS
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget


def at(world, k=0, t=0, **more):
    return AllocationContext(world.clients[k], world, t, **more)


def test_the_reference_trains_everything_whatever_the_budget(federation, byte_world):
    for world in (federation([1, 3], blocks=3), byte_world([Budget(memory=1)])):
        assert everything(at(world)) == Allocation((0, 1, 2), ("keep",) * 3)


def test_exclusive_takes_only_clients_that_can_train_all_blocks(federation):
    world = federation([1, 2, 3], blocks=3)
    assert [only_the_able(at(world, k)) for k in (0, 1)] == [None, None]
    assert only_the_able(at(world, 2)) == Allocation((0, 1, 2), ("keep",) * 3)


@pytest.mark.parametrize(
    ("budget", "able"),
    [
        (Budget(rank=8), True),
        (Budget(rank=7), False),
        (Budget(blocks=3, rank=7), False),
        (Budget(memory=10**6), True),
        (Budget(memory=10**6, blocks=2), False),
        (Budget(memory=10**6, rank=7), False),
        (Budget(memory=60), False),
        (Budget(memory=10**6, upload=4 + 3 * 43), True),
        (Budget(memory=10**6, upload=4 + 3 * 43 - 1), False),
    ],
)
def test_exclusive_takes_only_clients_that_can_train_at_full_rank(budget, able, byte_world):
    found = only_the_able(at(byte_world([budget])))
    assert (found is not None) == able
    assert found is None or (found.blocks, found.ranks) == ((0, 1, 2), ())


@given(st.integers(1, 40), st.data())
def test_spaced_blocks_are_as_many_as_asked_and_evenly_spread(blocks, data):
    count = data.draw(st.integers(0, blocks))
    found = spaced_blocks(count, blocks)
    assert len(set(found)) == len(found) == count
    assert all(0 <= l < blocks for l in found)
    gaps = np.diff([*found, blocks])
    assert not count or (found[0] == 0 and gaps.max() - gaps.min() <= 1)


def test_straggler_gives_everyone_the_weakest_clients_number_of_blocks(federation):
    world = federation([12, 6, 9], blocks=12)
    for k in range(3):
        for t in range(2):
            assert weakest_for_all(at(world, k, t)).blocks == (0, 2, 4, 6, 8, 10)  # as published
    assert weakest_for_all(at(federation([5, 0], blocks=5))).blocks == ()


@pytest.mark.parametrize("memory", [230, 330, 400])
def test_straggler_gives_everyone_the_same_blocks_also_where_budgets_are_bytes(memory, byte_world):
    world = byte_world([Budget(memory=memory), Budget(memory=10**6)], blocks=6, R=1, rule="keep")
    weak, strong = (weakest_for_all(at(world, k)) for k in range(2))
    assert weak.blocks == strong.blocks
    assert needs(world.costs[0], weak).within(world.tiers[0])


def test_local_only_keeps_what_the_pattern_affords(federation):
    world = federation([2, 5], blocks=6)
    local_only = METHODS["local-only"].allocate
    for k in range(2):
        for pattern in ("bottleneck", "triangle"):
            expected = gd_hla(at(world, k), pattern=pattern)
            assert {local_only(at(world, k, t), pattern=pattern) for t in range(3)} == {expected}


@pytest.mark.parametrize("strategy", [random_blocks, random_sub_model])
def test_random_blocks_are_uniform_and_anew_each_round(strategy, federation):
    world = federation([2, 5], blocks=6)
    counts, draws = np.zeros(6), set()
    for t in range(3000):
        found = strategy(at(world, 0, t))
        assert len(found.blocks) == 2
        counts[list(found.blocks)] += 1
        draws.add(found.blocks)
    # Mean 1000, standard deviation √(3000·1/3·2/3) = 25.8; 15 pairs.
    assert np.abs(counts - 1000).max() < 4.5 * 25.8
    assert len(draws) == 15
    assert len(strategy(at(world, 1)).blocks) == 5
    assert strategy(at(world, 0, 7)) == strategy(at(world, 0, 7))


def test_the_others_are_frozen_in_one_and_absent_in_the_other(federation):
    world = federation([2, 0], blocks=6)
    assert random_blocks(at(world)).absent == ()
    for t in range(20):
        found = random_sub_model(at(world, t=t))
        assert sorted(found.blocks + found.absent) == list(range(6))
    assert random_sub_model(at(world, 1)) == Allocation((), ("keep",) * 6)  # the head alone, on the whole model


def test_a_sub_models_policies_are_those_of_its_own_blocks(federation):
    world = replace(federation([3], blocks=6), rule="recompute")
    for t in range(10):
        found = random_sub_model(at(world, t=t))
        assert found.policies == tuple("recompute" if l in found.blocks else "keep" for l in range(6))


@pytest.mark.parametrize("rule", ["keep", "auto"])
def test_a_sub_model_has_as_many_blocks_as_fit_the_bytes(rule, byte_world):
    """With all of its blocks trained: by hand, from the costs of so many blocks in a row."""
    seen = set()
    for memory in range(60, 1600, 37):
        world = byte_world([Budget(memory=memory)], blocks=4, rule=rule)
        found = random_sub_model(at(world, t=memory))
        policies = {"keep": ("keep",), "auto": ("keep", "recompute")}[rule]

        def fits(count, world=world, policies=policies):
            costs = world.costs[0].of_blocks(count)
            ways = np.array(np.meshgrid(*[policies] * count)).T.reshape(-1, count)
            return any(needs(costs, Allocation(tuple(range(count)), tuple(w))).within(world.tiers[0]) for w in ways)

        most = max((c for c in range(1, 5) if fits(c)), default=0)
        seen.add(most)
        assert found is None if most == 0 else len(found.blocks) == most
        if found is not None:
            assert needs(world.costs[0], found).within(world.tiers[0])
    assert seen == {0, 1, 2, 3, 4}
    assert len(random_sub_model(at(byte_world([Budget(memory=10**6, blocks=2)]))).blocks) == 2


@pytest.mark.parametrize(("step", "ranks"), [(1, (3, 4, 5, 6, 7, 8)), (0, (8,) * 6), (3, (1, 1, 1, 2, 5, 8))])
def test_legend_trains_the_last_blocks_at_ranks_that_grow(step, ranks, federation):
    world = replace(federation([2, 6, 0], blocks=6), rank=8)
    for k, blocks in enumerate([(4, 5), (0, 1, 2, 3, 4, 5), ()]):
        found = last_blocks(at(world, k), step=step)
        assert (found.blocks, found.ranks) == (blocks, ranks)


def test_legend_fits_its_bytes(byte_world):
    taken = set()
    for memory in range(60, 1200, 31):
        world = byte_world([Budget(memory=memory)], blocks=4)
        found = last_blocks(at(world))
        assert found.blocks == tuple(range(4))[4 - len(found.blocks) :]
        taken.add(len(found.blocks))
        assert needs(world.costs[0], found).within(world.tiers[0])
    assert taken == {0, 1, 2, 3, 4}
