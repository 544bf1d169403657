from dataclasses import replace

from planning import costs


def test_a_lower_rank_takes_its_share_of_the_factors_bytes_and_no_less_of_the_rest():
    full = costs(3, block_bytes=(40,) * 3, block_upload=(43,) * 3, rank=8)
    low = full.at_rank(2)
    assert (full.block_bytes, low.block_bytes) == ((40,) * 3, (10,) * 3)
    assert (full.block_upload, low.block_upload) == ((43,) * 3, (13,) * 3)
    assert replace(low, rank=8, block_bytes=full.block_bytes, block_upload=full.block_upload) == full
