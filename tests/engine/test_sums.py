"""The server's side of secure sums; whole sums are tested with the engines."""

import numpy as np
import pytest
import torch

from fedhello.client.scoring import LARGEST_SQUARE, BlockSums
from fedhello.engine.sums import SCORE_UNIT, groups_of, read_scores, score_vector
from fedhello.errors import PrivacyError


def test_groups_are_as_few_as_possible_about_equal_and_new_each_time():
    drawn = [groups_of(range(101), 50) for _ in range(3)]
    for groups in drawn:
        assert sorted(k for group in groups for k in group) == list(range(101))
        assert sorted(map(len, groups)) == [33, 34, 34]
    assert not drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("clients", [2, 0])
def test_groups_of_fewer_than_the_least_are_refused(clients):
    with pytest.raises(PrivacyError, match=f"expected at least 3 clients in a secure sum; found {clients}"):
        groups_of(range(clients), 50, 3)


def test_a_group_is_larger_than_asked_rather_than_another_too_small():
    assert [len(group) for group in groups_of(range(9), 8, 5)] == [9]
    assert sorted(len(group) for group in groups_of(range(10), 8, 5)) == [5, 5]


def test_scores_are_read_back_from_a_sum_to_their_unit():
    one = BlockSums(torch.tensor([0.25, 3.0]).double(), torch.tensor(4.0).double())
    total = np.add(score_vector(one, 2), score_vector(None, 2))
    assert torch.equal(read_scores(total).squares, one.squares) and read_scores(total).count == 4
    huge = BlockSums(torch.tensor([2 * LARGEST_SQUARE]).double(), torch.tensor(1.0).double())
    assert float(read_scores(score_vector(huge, 1)).squares) == 2.0**53 * SCORE_UNIT
