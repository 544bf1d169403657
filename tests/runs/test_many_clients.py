"""What a run asks of all its clients, it asks of each once, so that a hundred thousand are no trouble."""

from collections import Counter
from statistics import median_low

import numpy as np
from handmade import session

from fedhello.aggregation.bound import bound_of
from fedhello.aggregation.share import most_samples
from fedhello.formatting import first_few
from fedhello.runs.heads import _declared
from fedhello.session import ClientEntry, Session
from fedhello.setup.checks import MOST_NAMED, capped_statistics
from fedhello.types import Budget, Client, Federation


class Counted(tuple):
    """Clients that count how often somebody looks through them."""

    looks = 0

    def __iter__(self):
        type(self).looks += 1
        return super().__iter__()

    def __contains__(self, one):
        type(self).looks += 1
        return super().__contains__(one)


def federation(clients=200):
    rng = np.random.default_rng(0)
    budgets = (Budget(1), Budget(2), Budget(3), Budget(4))
    tiers = rng.integers(3, size=clients).tolist()
    sizes = rng.integers(0, 50, size=clients).tolist()
    made = (Client(3 * k, g, budgets[g], n) for k, (g, n) in enumerate(zip(tiers, sizes, strict=True)))
    return Federation(Counted(made), budgets, 4, 5, 0)


def test_counts_over_all_clients_are_taken_once_and_are_those_of_each_client():
    world = federation()
    Counted.looks = 0
    for _ in range(10):
        sizes, alike, members = world.sizes, world.alike, world.members
        bound = bound_of(world, 2.0, 3.0)
        assert {g: one.tier for g, one in world.one_of.items()} == {0: 0, 1: 1, 2: 2}
    assert Counted.looks <= 3
    assert members == tuple(Counter(one.tier for one in world.clients)[g] for g in range(4))
    assert {k: key for key, ids in alike.items() for k in ids} == {c.id: (c.tier, c.budget) for c in world.clients}
    assert all(list(ids) == sorted(ids) for ids in alike.values())
    stated = [one.samples for one in world.clients if one.samples]
    assert list(sizes) == sorted(stated)
    assert (bound.typical, bound.most) == (median_low(stated), most_samples(stated, 3.0))


def test_what_clients_declared_is_added_up_in_one_pass():
    run = session(roster=tuple(ClientEntry(k, k % 2, k, {}) for k in range(100)))
    asked = Counted(range(0, 100, 2))
    Counted.looks = 0
    assert _declared(run, asked, 50) == sum(min(k, 50) for k in range(0, 100, 2))
    assert Counted.looks == 1


def test_the_tiers_of_all_clients_are_listed_once():
    one = object.__new__(Session)
    object.__setattr__(one, "roster", tuple(ClientEntry(k, k % 2, k, {}) for k in range(100)))
    assert one.tier_of == (0, 1) * 50
    assert one.tier_of is one.tier_of


def test_notes_on_many_clients_name_the_first():
    notes = list(capped_statistics((ClientEntry(k, 0, 10 + k, {}) for k in range(100)), 19))
    assert len(notes) == MOST_NAMED + 1
    assert notes[0].startswith("the head statistics of client 10 count as 19 of the 20 samples")
    assert notes[-1] == "those of 70 more clients count as 19 samples, too"
    assert first_few(range(100)).endswith(" and 80 more")
