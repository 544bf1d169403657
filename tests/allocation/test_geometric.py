from collections import Counter
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhello.allocation import geometric
from fedhello.allocation.geometric import (
    PATTERNS,
    allocate_blocks,
    block_probabilities,
    chosen_pattern,
    draw_preference,
    gd_hla,
    pattern_preference,
    rgd_hla,
    tier_probabilities,
)
from fedhello.allocation.planner import fit
from fedhello.strategy import AllocationContext
from fedhello.types import Budget, Client, Federation

block_counts = st.integers(1, 40)


def test_the_patterns_of_twelve_blocks_are_the_papers():
    assert allocate_blocks("triangle", 3, 12) == (0, 1, 2)
    assert allocate_blocks("inverted_triangle", 3, 12) == (9, 10, 11)
    assert allocate_blocks("bottleneck", 6, 12) == (0, 1, 2, 9, 10, 11)
    assert allocate_blocks("bottleneck", 9, 12) == (0, 1, 2, 3, 4, 8, 9, 10, 11)
    assert allocate_blocks("uniform", 5, 12, start=10) == (0, 1, 2, 10, 11)


@given(block_counts, st.data(), st.sampled_from(PATTERNS), st.integers(0, 100))
def test_every_pattern_gives_as_many_different_blocks_as_the_capacity(blocks, data, pattern, start):
    capacity = data.draw(st.integers(0, blocks))
    chosen = allocate_blocks(pattern, capacity, blocks, start % blocks)
    assert len(chosen) == len(set(chosen)) == capacity
    assert list(chosen) == sorted(chosen)
    assert all(0 <= block < blocks for block in chosen)


@given(block_counts, st.data(), st.sampled_from(["triangle", "inverted_triangle", "bottleneck"]))
def test_a_larger_capacity_contains_the_smaller_ones_blocks(blocks, data, pattern):
    capacity = data.draw(st.integers(0, blocks - 1))
    assert set(allocate_blocks(pattern, capacity, blocks)) < set(allocate_blocks(pattern, capacity + 1, blocks))


@pytest.mark.parametrize("capacity", [-1, 13])
def test_a_capacity_outside_the_model_is_refused(capacity):
    with pytest.raises(ValueError, match="within 0 and 12"):
        allocate_blocks("bottleneck", capacity, 12)


def test_an_unknown_pattern_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="one of triangle"):
        allocate_blocks("square", 1, 12)  # type: ignore[arg-type]


def test_bottleneck_probabilities_are_exactly_the_published_ones():
    expected = np.array([3, 3, 3, 2, 2, 1, 1, 1, 2, 3, 3, 3]) / 27
    assert (block_probabilities("bottleneck", [6, 9, 12], 12) == expected).all()


def test_probabilities_of_the_other_patterns_by_hand():
    assert (block_probabilities("triangle", [1, 2], 3) == np.array([2, 1, 0]) / 3).all()
    assert (block_probabilities("inverted_triangle", [1, 2], 3) == np.array([0, 1, 2]) / 3).all()
    assert (block_probabilities("uniform", [1, 2], 4) == np.full(4, 1 / 4)).all()


def test_tiers_can_be_weighted_by_their_clients():
    # 3 clients hold block 0; 1 client holds blocks 0 and 1: counts 4 and 1.
    assert block_probabilities("triangle", [1, 2], 2, weights=[3, 1]) == pytest.approx([4 / 5, 1 / 5])


@given(block_counts, st.data(), st.sampled_from(["triangle", "inverted_triangle", "bottleneck"]))
def test_probabilities_are_the_share_of_tiers_that_hold_a_block(blocks, data, pattern):
    capacities = data.draw(st.lists(st.integers(0, blocks), min_size=1, max_size=5).filter(any))
    counts = Counter(block for c in capacities for block in allocate_blocks(pattern, c, blocks))
    p = block_probabilities(pattern, capacities, blocks)
    for block in range(blocks):
        assert p[block] == pytest.approx(float(Fraction(counts[block], sum(capacities))))
    assert p.sum() == pytest.approx(1)


def test_probabilities_need_a_tier_that_trains():
    with pytest.raises(ValueError, match="at least one tier"):
        block_probabilities("bottleneck", [0, 0], 12)


@given(block_counts, st.data(), st.integers(0, 10))
def test_draws_are_without_replacement_and_avoid_blocks_that_no_tier_holds(blocks, data, seed):
    capacity = data.draw(st.integers(0, blocks))
    p = block_probabilities("triangle", [max(1, capacity)], blocks)
    v = draw_preference(p, np.random.default_rng(seed))
    assert v.shape == (blocks,)
    assert sorted(np.flatnonzero(v > 0)) == list(range(max(1, capacity)))
    assert v.max() <= 1


@given(st.sampled_from(PATTERNS), block_counts, st.data())
def test_a_pattern_prefers_the_blocks_of_its_sets(pattern, blocks, data):
    capacity, start = data.draw(st.integers(0, blocks)), data.draw(st.integers(0, blocks - 1))
    v = pattern_preference(pattern, blocks, start)
    assert sorted(v) == list(range(1, blocks + 1))
    most = np.argsort(-v)[:capacity]
    assert tuple(sorted(most)) == allocate_blocks(pattern, capacity, blocks, start)


def test_draws_follow_the_probabilities():
    """The c most preferred are drawn like c blocks one after the other, without replacement."""
    p = np.array([0.5, 0.3, 0.2, 0.0])
    rng = np.random.default_rng(0)
    orders = Counter(tuple(np.argsort(-draw_preference(p, rng))[:2].tolist()) for _ in range(8000))
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            assert orders[first, second] / 8000 == pytest.approx(p[first] * p[second] / (1 - p[first]), abs=0.02)


def test_a_rare_block_is_not_lost_to_rounding():
    p = np.array([1 - 1e-9, 1e-9])
    assert all((draw_preference(p, np.random.default_rng(seed)) > 0).all() for seed in range(20))


def test_gd_keeps_a_clients_blocks_for_the_whole_run(federation):
    world = federation([2, 4, 6], blocks=6)
    for client in world.clients:
        rounds = {gd_hla(AllocationContext(client, world, t), pattern="bottleneck") for t in range(10)}
        assert len(rounds) == 1


@given(st.lists(st.integers(0, 7), min_size=1, max_size=30))
def test_gd_uniform_holds_every_block_equally_often(capacities):
    clients = tuple(Client(k, 0, Budget(c), 1) for k, c in enumerate(capacities))
    world = Federation(clients, (Budget(7),), 7, len(clients), 0)
    held = Counter(b for c in clients for b in gd_hla(AllocationContext(c, world, 0), pattern="uniform").blocks)
    counts = [held[b] for b in range(7)]
    assert max(counts) - min(counts) <= 1


def test_rgd_draws_anew_for_each_client_and_round(federation):
    world = federation([3] * 10, blocks=12)
    draws = {
        rgd_hla(AllocationContext(c, world, t), pattern="uniform").blocks for c in world.clients for t in range(10)
    }
    assert len(draws) > 50
    assert all(len(blocks) == 3 for blocks in draws)


def test_rgd_weights_tiers_equally_unless_told(federation):
    world = federation([1, 1, 1, 2], blocks=2)
    assert tier_probabilities(world, "triangle", "equal") == pytest.approx([2 / 3, 1 / 3])
    assert tier_probabilities(world, "triangle", "clients") == pytest.approx([4 / 5, 1 / 5])


@pytest.mark.parametrize(
    ("tiers", "pattern"),
    [
        ([Budget(blocks=2), Budget(blocks=4)], "inverted_triangle"),
        ([Budget(memory=10**8), Budget(upload=10**5)], "inverted_triangle"),
        ([Budget(seconds=1.0, speed=1e9)], "inverted_triangle"),
        ([Budget(upload=10**5), Budget(upload=10**6)], "uniform"),
    ],
)
def test_auto_saves_what_the_budgets_limit(tiers, pattern):
    assert chosen_pattern("auto", tiers)[0] == pattern
    assert chosen_pattern("triangle", tiers)[0] == "triangle"


@pytest.mark.parametrize("strategy", [gd_hla, rgd_hla])
def test_auto_allocates_what_it_stands_for(strategy, federation):
    world = federation([1, 3], blocks=6)
    for client in world.clients:
        context = AllocationContext(client, world, 3)
        assert strategy(context, pattern="auto") == strategy(context, pattern="inverted_triangle")


def test_gd_uniform_fits_each_kind_of_client_once_however_many_there_are(monkeypatch):
    budgets = (Budget(1), Budget(3), Budget(2))
    clients = tuple(Client(2 * k, k % 3, budgets[k % 3], 1) for k in range(300))
    world, fits = Federation(clients, budgets, 7, 10, 0), []
    monkeypatch.setattr(geometric, "fit", lambda *asked: fits.append(asked) or fit(*asked))
    found = [gd_hla(AllocationContext(client, world, 0), pattern="uniform").blocks for client in clients]
    assert len(fits) <= 4 * len(clients)
    start = 0
    for client, blocks in zip(clients, found, strict=True):
        assert blocks == tuple(sorted((start + i) % 7 for i in range(client.budget.blocks)))
        start += client.budget.blocks
