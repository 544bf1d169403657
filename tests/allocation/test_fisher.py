import numpy as np
import pytest

from fedhello.allocation.fisher import fim_hla, rank_by_cluster, score_probabilities
from fedhello.strategy import AllocationContext


def test_the_order_of_clusters_follows_their_centroids_for_100_seeds():
    rng = np.random.default_rng(0)
    for seed in range(100):
        scores = rng.lognormal(sigma=2, size=12).tolist()
        ranks = rank_by_cluster(scores, 3, seed)
        by_score = ranks[np.argsort(scores)]
        assert (np.diff(by_score) >= 0).all()
        assert set(ranks) == {1, 2, 3}


def test_clear_groups_are_found():
    assert rank_by_cluster([1.0, 100, 1.1, 10, 101, 10.1], 3, seed=0).tolist() == [1, 3, 1, 2, 3, 2]


def test_probabilities_are_multiples_of_one_over_27_for_a_published_shape():
    scores = [9, 9, 9, 5, 5, 1, 1, 1, 5, 9, 9, 9]
    expected = np.array([3, 3, 3, 2, 2, 1, 1, 1, 2, 3, 3, 3]) / 27
    assert (score_probabilities(scores, 3, seed=0) == expected).all()


def test_equal_scores_give_equal_probabilities():
    assert (score_probabilities([2.0, 2.0, 2.0, 2.0], 3, seed=0) == 0.25).all()


def test_fewer_different_scores_than_clusters_are_no_trouble():
    assert rank_by_cluster([1.0, 2.0, 2.0], 3, seed=0).tolist() == [1, 2, 2]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_ranks_do_not_depend_on_the_scale_of_the_scores(scale):
    scores = [scale * s for s in (1.0, 1.2, 5.0, 9.0)]
    assert rank_by_cluster(scores, 3, seed=0).tolist() == [1, 1, 2, 3]


def test_important_blocks_are_drawn_more_often(federation):
    world = federation([1], blocks=3)
    scores = (1.0, 10.0, 100.0)
    draws = [fim_hla(AllocationContext(world.clients[0], world, t, scores)).blocks[0] for t in range(3000)]
    frequencies = np.bincount(draws, minlength=3) / 3000
    assert frequencies == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.03)


def test_scores_are_required(federation):
    world = federation([1], blocks=3)
    with pytest.raises(ValueError, match="needs Fisher scores"):
        fim_hla(AllocationContext(world.clients[0], world, 0))
