"""Case 26: a mean product cut to rank r is the best one of that rank, and never larger than it was.

More of it in ``tests/aggregation/test_lowrank.py``, ``test_product.py`` and ``test_padding.py``.
"""

import pytest
import torch

from fedhello.aggregation.lowrank import LowRankSum, split_svd


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_what_is_cut_off_are_the_smallest_singular_values(rank):
    draw = torch.Generator().manual_seed(rank)
    total, dense = LowRankSum(), torch.zeros(9, 7, dtype=torch.float64)
    for r in (2, 3, 4):
        B, A = torch.randn(9, r, generator=draw), torch.randn(r, 7, generator=draw)
        total.add(B, A, 1 / 3)
        dense += B.double() @ A.double() / 3
    B, A = split_svd(total, rank, "both")
    rest = torch.linalg.svdvals(dense)[rank:]
    assert float((dense - B @ A).norm()) == pytest.approx(float(rest.norm()), abs=1e-9)
    assert float((B @ A).norm()) <= float(dense.norm()) + 1e-12
