from planning import ROLES, SAVED, byte_federation, costs

from fedhello.allocation.needs import measured_excess, most_flops, needs
from fedhello.state import ClientReport
from fedhello.types import Allocation, Budget, Federation, Rejection


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


def test_what_blocks_below_the_lowest_leave_alive_counts_by_hand():
    c = costs(4, below=11, below_each=7)
    for lowest, alive in ((0, 0), (1, 11), (2, 11 + 7), (3, 11 + 2 * 7)):
        one = Allocation((lowest,), ("keep",) * 4)
        assert needs(c, one).peak_bytes - needs(costs(4), one).peak_bytes == alive
        assert needs(c, one).saved_bytes == needs(costs(4), one).saved_bytes
    frozen = Allocation((0, 3), ("keep", "keep", "recompute", "keep"))
    more = needs(costs(4, left={("keep", "trained"): 6, ("keep", "frozen"): 50, ("recompute", "frozen"): 1}), frozen)
    # Of the blocks above the lowest, two are frozen and recompute or keep, the last trains.
    assert more.peak_bytes - needs(costs(4), frozen).peak_bytes == 6 + 50 + 1
    assert more.saved_bytes == needs(costs(4), frozen).saved_bytes
    head = Allocation((), ("keep",) * 4)
    assert needs(c, head) == needs(costs(4), head)  # measured with all blocks below


def test_what_recomputing_blocks_share_counts_once_by_hand():
    kinds = {(p, r): SAVED[p][r] for p in SAVED for r in ROLES}
    c = costs(3, saved=kinds | {("recompute", "lowest"): 8 + 30})

    def more(*policies):
        allocation = Allocation((0, 2), policies)
        return needs(c, allocation).saved_bytes - needs(costs(3), allocation).saved_bytes

    assert more("keep", "keep", "keep") == more("keep", "compress", "keep") == 0
    assert more("recompute", "recompute", "recompute") == 30
    assert more("keep", "recompute", "recompute") == more("keep", "keep", "recompute") == 30
    assert needs(c, Allocation((2,), ("recompute", "recompute", "keep"))).saved_bytes == 5 + 70  # none runs in backward


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


def test_gradients_of_samples_are_held_for_every_block_that_is_done():
    """Three gradients of each value: at block 0 those of the blocks above, and two more of its own."""
    everything = Allocation((0, 1, 2, 3), ("keep",) * 4)
    for size, peak in ((40, 5 + 70 + 15 + 3 * 120 + 2 * 40), (500, 3 * 2001)):
        plain, several = (needs(costs(4, block_bytes=(size,) * 4, copies=n), everything) for n in (1, 3))
        assert several.peak_bytes - 2 * (4 * size + 1) == peak
        assert (several.saved_bytes, several.upload_bytes) == (plain.saved_bytes, plain.upload_bytes)


def test_without_seconds_time_does_not_bind():
    assert most_flops(Budget(memory=1)) == float("inf")
    assert most_flops(Budget(seconds=2.0, speed=5.0)) == 10


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


def test_each_time_a_client_runs_out_of_memory_it_is_planned_a_quarter_smaller(federation):
    out = [Rejection(1, 0, "over budget"), Rejection(0, 0, "lost")]
    world = federation([1, 1], blocks=2)
    assert measured_excess(world, [], {}, out) == {1: 1.25}
    assert measured_excess(world, [], {1: 2.0}, out) == {1: 2.5}
