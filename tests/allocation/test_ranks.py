import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import OPTIONS
from fedhello.allocation.ranks import (
    affordable,
    common_rank,
    common_rank_alternating,
    common_rank_B,
    own_rank,
    pruned_rank,
    random_components,
    ranks_by_fisher,
    share_ranks,
    weakest_rank,
)
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget, Client, Federation


def counted(ranks, blocks=3, R=8):
    tiers = tuple(Budget(rank=r) for r in ranks)
    clients = tuple(Client(k, k, tier, samples=1) for k, tier in enumerate(tiers))
    return Federation(clients, tiers, blocks, len(clients), 0, rank=R)


def at(world, k=0, t=0, **more):
    return AllocationContext(world.clients[k], world, t, **more)


def ways_to_train_all(world, r):
    """Every choice of policies that the rule allows, at one rank."""
    choices = itertools.product(OPTIONS[world.rule]["trained"], repeat=world.num_blocks)
    everything = tuple(range(world.num_blocks))
    return [Allocation(everything, policies, ranks=(r,) * world.num_blocks) for policies in choices]


def test_with_counts_everyone_trains_all_blocks_at_its_rank():
    world = counted([2, 8, None])
    for k, r in enumerate((2, 8, 8)):
        assert own_rank(at(world, k)) == Allocation((0, 1, 2), ("keep",) * 3, ranks=(r,) * 3)
        assert common_rank(at(world, k)) == Allocation((0, 1, 2), ("keep",) * 3, ranks=(2,) * 3)
    assert own_rank(at(replace(world, rule="recompute"))).policies == ("recompute",) * 3


@pytest.mark.parametrize("rule", ["keep", "recompute", "auto", "auto-compress"])
@pytest.mark.parametrize(("limit", "sizes"), [("memory", range(60, 900, 23)), ("upload", range(10, 130, 5))])
def test_the_rank_is_the_highest_that_fits(rule, limit, sizes, byte_world):
    """Among all ranks and policies, tried one by one."""
    found = set()
    for size in (*sizes, 10**6):
        world = byte_world([Budget(**{"memory": 10**6, limit: size})], rule=rule)
        r, policies = affordable(at(world))
        found.add(r)
        fits = {
            q: any(needs(world.costs[0], way).within(world.tiers[0]) for way in ways_to_train_all(world, q))
            for q in range(1, 9)
        }
        assert r == max((q for q in fits if fits[q]), default=0)
        allocation = own_rank(at(world))
        if r == 0:
            assert allocation is None
        else:
            assert allocation == Allocation((0, 1, 2), policies, ranks=(r,) * 3)
            assert needs(world.costs[0], allocation).within(world.tiers[0])
    assert {0, 1, 4, 8} <= found


def test_a_rank_besides_bytes_is_a_limit_too(byte_world):
    assert affordable(at(byte_world([Budget(memory=10**6, rank=3)])))[0] == 3


def test_computation_hardly_depends_on_the_rank_so_seconds_afford_all_or_none(byte_world):
    found = {affordable(at(byte_world([Budget(seconds=float(s), speed=1.0)])))[0] for s in range(50, 140)}
    assert found == {0, 8}


def test_what_went_over_budget_is_planned_at_a_lower_rank(byte_world):
    world = byte_world([Budget(memory=400)])
    before, after = (affordable(at(world, excess=excess))[0] for excess in (1.0, 1.2))
    assert 0 < after < before
    way = own_rank(at(world, excess=1.2))
    assert 1.2 * needs(world.costs[0], way).memory_bytes <= 400


def test_the_common_rank_is_the_weakest_among_those_that_can_train(byte_world):
    world = byte_world([Budget(memory=60), Budget(memory=10**6, upload=100), Budget(memory=10**6)])
    ranks = [affordable(at(world, k))[0] for k in range(3)]
    assert ranks[0] == 0 < ranks[1] < ranks[2] == 8
    assert weakest_rank(world) == ranks[1]
    assert common_rank(at(world, 0)) is None
    for k in (1, 2):
        assert common_rank(at(world, k)).ranks == (ranks[1],) * 3
    nobody = byte_world([Budget(memory=60)])
    assert weakest_rank(nobody) == 0
    for strategy in (common_rank, common_rank_B, common_rank_alternating, random_components, pruned_rank):
        assert strategy(at(nobody)) is None
    assert ranks_by_fisher(at(nobody, scores=(1.0,) * 3)) is None


def test_a_tier_without_clients_does_not_lower_the_common_rank():
    world = counted([1, 4])
    assert weakest_rank(replace(world, clients=world.clients[1:])) == 4


def test_which_factors_train():
    world = counted([2, 4])
    assert [common_rank_B(at(world, 1, t)).factors for t in range(3)] == ["B", "B", "B"]
    # B first: while it is zero, A has no gradient.
    assert [common_rank_alternating(at(world, 1, t)).factors for t in range(4)] == ["B", "A", "B", "A"]
    for strategy in (common_rank_B, common_rank_alternating):
        assert replace(strategy(at(world, 1)), factors="AB") == common_rank(at(world, 1))


def test_a_pruned_rank_is_remembered_and_never_raises_the_budgets():
    world = counted([6, 6, 6])
    method_state = {"rank/0": torch.tensor(4), "rank/1": torch.tensor(7), "rank/20": torch.tensor(1)}
    assert [pruned_rank(at(world, k, method_state=method_state)).ranks[0] for k in range(3)] == [4, 6, 6]


def test_components_are_drawn_uniformly_anew_for_each_client_and_round_and_independently_in_each_block():
    world, R, L, rounds = counted([3, 3, 8]), 8, 3, 1500
    held, draws = np.zeros((2 * rounds, L * R)), set()
    for t in range(rounds):
        for k in range(2):
            found = random_components(at(world, k, t))
            assert found.ranks == (3,) * L and len(found.components) == L
            for l in range(L):
                own = found.held(l, R)
                assert len(own) == 3 and list(own) == sorted(set(own))
                held[2 * t + k, [l * R + j for j in own]] = 1
            draws.add((t, found.components))
    # Each is held with probability 3/8: mean 2·1500·3/8 = 1125, with a standard deviation of √(3000·3/8·5/8) = 26.5.
    assert np.abs(held.sum(axis=0) - 1125).max() < 4.5 * 26.5
    # Two of a block are held together with probability 3/8·2/7, two of different blocks with 3/8·3/8, as by chance:
    # correlations of −1/7 and 0, each with a standard deviation of 1/√3000 = 0.018.
    expected = np.kron(np.eye(L), np.full((R, R), -1 / 7))
    expected[np.diag_indices(L * R)] = 1
    assert np.abs(np.corrcoef(held.T) - expected).max() < 4.5 * 0.0183
    assert len(draws) == 2 * rounds
    assert random_components(at(world, 0, 5)) == random_components(at(world, 0, 5))
    assert random_components(at(world, 2)).components == (tuple(range(8)),) * L


def test_ranks_by_fisher_by_hand():
    world = counted([4])
    scores = (1.0, 2.0, 3.0)
    # 12 ranks to share: 2, 4, 6.
    assert ranks_by_fisher(at(world, scores=scores)).ranks == (2, 4, 6)
    # At most 8 each: of 1/10, 1/10, 8/10 the floors are 1, 1 and 9; the one left over goes to the first of equals.
    assert ranks_by_fisher(at(world, scores=(1.0, 1.0, 8.0))).ranks == (3, 1, 8)
    assert ranks_by_fisher(at(world, scores=(0.0, 0.0, 1.0)), rank_min=2).ranks == (2, 2, 8)
    # Nobody can be promised more than the budget's average.
    assert ranks_by_fisher(at(world, scores=(0.0, 0.0, 1.0)), rank_min=6).ranks == (4, 4, 4)
    with pytest.raises(ValueError, match="need scores"):
        ranks_by_fisher(at(world))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup": 2}, ["AB", "AB", "B", "A", "B"]),
        ({"warmup": 3}, ["AB", "AB", "AB", "A", "B"]),
        ({"warmup": 0}, ["B", "A", "B", "A", "B"]),
        ({"warmup": 1, "alternate": False}, ["AB"] * 5),
    ],
)
def test_hralora_warms_up_and_then_trains_B_in_even_and_A_in_odd_rounds(options, expected):
    world = counted([4])
    assert [ranks_by_fisher(at(world, t=t, scores=(1.0,) * 3), **options).factors for t in range(5)] == expected


scores = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=12)


@given(scores, st.integers(0, 5), st.integers(0, 10), st.data())
def test_shared_ranks_sum_up_stay_within_bounds_and_follow_the_scores(scores, least, more, data):
    L, most = len(scores), least + more
    total = data.draw(st.integers(L * least, L * most))
    ranks = share_ranks(scores, total, least, most)
    assert len(ranks) == L
    assert sum(ranks) == total
    assert all(least <= r <= most for r in ranks)
    for i, j in itertools.permutations(range(L), 2):
        assert scores[i] <= scores[j] or ranks[i] >= ranks[j]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(1, 60))
def test_without_bounds_every_block_but_the_first_gets_the_floor_of_its_share(scores, total):
    ranks = share_ranks([float(s) for s in scores], total, 0, total)
    highest = scores.index(max(scores))
    for l, score in enumerate(scores):
        share = Fraction(score * total, sum(scores))
        # A share that is a whole number may come out one lower: see the next test.
        assert l == highest or ranks[l] in {int(share), int(share) - (share.denominator == 1)}


def test_scores_that_are_the_ranks_give_the_ranks():
    assert share_ranks((15.0, 29.0), 44, 0, 44) == (15, 29)


def test_hralora_keeps_within_a_budget_of_bytes(byte_world):
    """Gradients of high-rank blocks near the output are held while backward goes down to the lowest block."""
    for memory in range(60, 700, 7):
        world = byte_world([Budget(memory=memory)], rule="recompute")
        for ends in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 1.0)):
            found = ranks_by_fisher(at(world, scores=ends))
            assert found is None or needs(world.costs[0], found).within(world.tiers[0])
