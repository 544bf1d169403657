import pytest

from fedhello.allocation.fisher import fim_hla
from fedhello.allocation.geometric import rgd_hla
from fedhello.allocation.schedule import after_warmup, fed_hello, periodically
from fedhello.strategy import AllocationContext

SCORES = (1.0, 1.0, 1.0, 1.0, 50.0, 100.0)


def test_scores_are_due_after_the_warm_start_and_at_each_refresh():
    assert [t for t in range(40) if after_warmup(t, warmup=10, refresh=15)] == [10, 25]
    assert [t for t in range(40) if periodically(t, refresh=15)] == [0, 15, 30]


def test_published_schedule_of_500_rounds():
    assert [t for t in range(500) if after_warmup(t, warmup=50, refresh=50)] == list(range(50, 500, 50))


@pytest.mark.parametrize("t", range(12))
def test_fed_hello_is_rgd_first_and_fim_afterwards(federation, t):
    world = federation([2], blocks=6)
    context = AllocationContext(world.clients[0], world, t, SCORES if t >= 5 else None)
    expected = fim_hla(context) if t >= 5 else rgd_hla(context)
    assert fed_hello(context, warmup=5, refresh=3) == expected


@pytest.mark.parametrize("t", range(12))
def test_without_persistence_scores_serve_only_in_the_round_that_computed_them(federation, t):
    world = federation([2], blocks=6)
    context = AllocationContext(world.clients[0], world, t, SCORES if t >= 5 else None)
    expected = fim_hla(context) if t in (5, 8, 11) else rgd_hla(context)
    assert fed_hello(context, warmup=5, refresh=3, persist=False) == expected
