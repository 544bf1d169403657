from dataclasses import replace

from planning import costs


def test_a_lower_rank_takes_its_share_of_the_factors_bytes_and_no_less_of_the_rest():
    full = costs(3, block_bytes=(40,) * 3, block_upload=(43,) * 3, rank=8)
    low = full.at_rank(2)
    assert (full.block_bytes, low.block_bytes) == ((40,) * 3, (10,) * 3)
    assert (full.block_upload, low.block_upload) == ((43,) * 3, (13,) * 3)
    assert replace(low, rank=8, block_bytes=full.block_bytes, block_upload=full.block_upload) == full


def test_kept_activations_spare_all_passes_of_a_step_but_the_one_that_fills_them():
    """Each of 3 blocks costs 40 FLOPs of forward passes in a round of E = 2 epochs."""
    once = costs(3, flops_outside=200, forward_flops=40).with_kept_activations(1 / 2)
    assert once.flops_outside == 200 - 3 * 20
    five = costs(3, flops_outside=200, forward_flops=40, passes=5).with_kept_activations(1 / 2)
    assert five.flops_outside == 200 - 3 * 36, "one pass of ten is left"
    assert all(five.flops[kind] - size == 36 for kind, size in costs(3).flops.items())
