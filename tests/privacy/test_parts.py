"""The parts of vectors: whose training each number is, and what may be opened of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.aggregation.padding import average_padded
from fedhello.errors import PrivacyError
from fedhello.privacy.parts import Layout, Part, Plan, laid_out, threshold, trained
from fedhello.privacy.secure import SecureRound, SecureSettings
from fedhello.types import Adapter, Allocation, Budget, Client, Federation

A, B = "q.lora_A.weight", "q.lora_B.weight"
START = Adapter({A: torch.zeros(2, 3), B: torch.zeros(4, 2), "head": torch.ones(2)}, {A: 0, B: 0, "head": None})
RANKS = {0: Allocation((0,), ranks=(1,)), 1: Allocation((0,), ranks=(2,)), 2: Allocation((0,), ranks=(2,))}


def agreed(aggregator=average_layerwise, **settings):
    tiers = (Budget(rank=2),)
    clients = tuple(Client(k, 0, tiers[0], samples=1 + k) for k in range(4))
    federation = Federation(clients, tiers, num_blocks=1, clients_per_round=4, seed=0, rank=2)
    return SecureRound(aggregator, federation, START, SecureSettings(**settings))


def by_name(how, plan, part):
    """Return the numbers of each tensor's value that a part holds."""
    at, found = 0, {}
    for name, shape in plan.encoding.shapes.items():
        size = int(np.prod(shape))
        found[name] = sorted(i - at for i in part.at.tolist() if at <= i < at + size)
        at += size
    return found


def test_components_that_fewer_hold_are_a_part_of_their_own():
    """Client 0 holds the first of two components: the second row of A and column of B are those of the others."""
    how = agreed(cohorts=3)
    plan = how.plan(RANKS | {3: RANKS[2]})
    parts = {part.cohort: part for part in how.layout(plan).parts}
    assert parts.keys() == {(0, 1, 2, 3), (1, 2, 3)}
    assert by_name(how, plan, parts[1, 2, 3]) == {"head": [], A: [3, 4, 5], B: [1, 3, 5, 7]}
    assert parts[1, 2, 3].senders == (1, 2, 3)
    assert sorted(np.concatenate([part.at for part in parts.values()])) == list(range(plan.encoding.length))


def test_who_pads_sends_but_is_not_of_the_cohort():
    how = agreed(average_padded, cohorts=3)
    plan = how.plan(RANKS | {3: RANKS[2]})
    parts = {part.cohort: part for part in how.layout(plan).parts}
    assert parts[1, 2, 3].senders == (0, 1, 2, 3)
    assert [part.senders for part in how.layout(how.plan(RANKS)).parts if part.cohort == (1, 2)] == [()]


def test_server_and_clients_divide_alike_whatever_else_a_client_knows():
    """A client has the plan, its own row of the federation and its own copy of the model."""
    how = agreed()
    plan = how.plan(RANKS)
    one = replace(how.federation.clients[0], classes=(1,))
    own = replace(how, federation=replace(how.federation, clients=(one,), class_rows=("head",)))
    for mine, theirs in zip(own.layout(plan).parts, how.layout(plan).parts, strict=True):
        assert (mine.cohort, mine.senders, mine.at.tolist()) == (theirs.cohort, theirs.senders, theirs.at.tolist())


def test_a_part_gets_a_seed_of_its_own_where_leavers_may_end_its_cohort():
    clients = tuple(range(9))
    assert threshold(9) == 6
    parts = tuple(Part(np.array([i]), clients[:n], clients[:n]) for i, n in enumerate((9, 6, 5, 3)))
    layout = Layout(clients, 4, 3, parts)
    assert layout.seeds == (0, 0, 3, 4)
    assert layout.seeds_of(0) == [0, 3, 4] and layout.seeds_of(5) == [0]
    assert layout.opened(range(2, 9)) == [0, 1, 2] and layout.opened(range(9)) == [0, 1, 2, 3]
    assert layout.withheld(range(2, 9)).tolist() == [3] and layout.withheld(range(3, 9)).tolist() == [2]


def test_plans_that_do_not_fit_are_refused():
    how = agreed()
    with pytest.raises(PrivacyError, match="expected at least 3 clients in a sum; found 2"):
        laid_out(Plan((0, 1), 5), how.support)
    with pytest.raises(PrivacyError, match="expected at least 3 clients in a sum; found 5"):
        laid_out(Plan(tuple(range(5)), 5, least=2), how.support)
    with pytest.raises(PrivacyError, match="expected a plan with the allocation of each client"):
        laid_out(replace(how.plan(RANKS), allocations={0: RANKS[0]}), how.support)


def test_policies_and_preferences_are_not_told():
    asked = Allocation((0,), policies=("keep",), preference=(1.0,), absent=(1,), components=(1,), factors="B")
    assert trained(asked) == Allocation((0,), components=(1,), factors="B")
