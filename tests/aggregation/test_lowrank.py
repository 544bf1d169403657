import numpy as np
import pytest
import torch

from fedhello.aggregation.lowrank import LowRankSum, split_svd

SHAPES = [(5, 9), (9, 5), (6, 6)]


def some_products(d_out, d_in, count, seed=0):
    """Products of ranks 1 to 3 with weights of either sign, their dense sum, and the most numbers that were held."""
    rng = np.random.default_rng(seed)
    total, dense, widest = LowRankSum(), np.zeros((d_out, d_in)), 0
    for _ in range(count):
        r, w = int(rng.integers(1, 4)), float(rng.normal())
        B, A = rng.normal(size=(d_out, r)), rng.normal(size=(r, d_in))
        total.add(torch.from_numpy(B), torch.from_numpy(A), w)
        dense += w * B @ A
        held = [*total.left, *total.right, *([] if total.whole is None else [total.whole])]
        widest = max(widest, sum(one.numel() for one in held))
    return total, dense, widest


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 7, 400])
def test_the_sum_is_the_dense_one_and_holds_no_more_numbers(shape, count):
    total, dense, widest = some_products(*shape, count)
    assert widest <= shape[0] * shape[1]
    U, V = total.factors()
    assert U.shape[1] == V.shape[0] <= min(shape)
    assert np.abs((U @ V).numpy() - dense).max() <= 1e-9 * np.abs(dense).max()
    assert total.norm() == pytest.approx(np.linalg.norm(dense), rel=1e-9)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50)])
@pytest.mark.parametrize("count", [2, 12, 13, 200])
def test_added_one_by_one_is_the_same_as_all_factors_at_once(shape, count):
    """On either side of rank 24 or 25, from which on the matrix has fewer numbers than the factors."""
    rng = torch.Generator().manual_seed(count)
    d_out, d_in = shape
    products = [[torch.randn(*size, generator=rng).double() for size in ((d_out, 2), (2, d_in))] for _ in range(count)]
    streamed, whole = LowRankSum(), LowRankSum([B for B, _ in products], [A for _, A in products])
    for B, A in products:
        streamed.add(B, A)
    assert (streamed.whole is None) == (2 * count * (d_out + d_in) <= d_out * d_in)
    assert torch.allclose(streamed.dense(), whole.dense(), rtol=0, atol=1e-10)
    assert streamed.norm() == pytest.approx(whole.norm(), rel=1e-12)
    for one, other in zip(split_svd(streamed, 4, "B"), split_svd(whole, 4, "B"), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_factors_are_summed_in_float64(shape):
    B, A = torch.full((shape[0], 1), 1.0), torch.full((1, shape[1]), 1.0)
    total = LowRankSum()
    for w in (1e8, *(1.0,) * 100, -1e8):
        total.add(B, A, w)
    U, V = total.factors()
    assert (U @ V).numpy() == pytest.approx(np.full(shape, 100.0), rel=1e-6)


@pytest.mark.parametrize("count", [1, 4, 40])
def test_scaling_gives_another_sum_and_leaves_the_first_alone(count):
    total, dense, _ = some_products(5, 9, count)
    half = total.scaled(0.5)
    half.add(torch.ones(5, 1), torch.ones(1, 9))
    for one, expected in ((total, dense), (half, dense / 2 + 1)):
        U, V = one.factors()
        assert (U @ V).numpy() == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(1, 1), (1, 40), (40, 1), (40, 40)])
def test_a_sum_includes_another(counts):
    (one, first, _), (other, second, _) = (some_products(5, 9, count, seed=count) for count in counts)
    one.include(other)
    assert one.dense().numpy() == pytest.approx(first + second)
    assert other.dense().numpy() == pytest.approx(second)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 400])
def test_the_svd_is_that_of_the_dense_sum(shape, count):
    total, dense, _ = some_products(*shape, count)
    P, sigma, Q = (part.numpy() for part in total.svd())
    assert (P * sigma) @ Q == pytest.approx(dense, abs=1e-9)
    np.testing.assert_allclose(P.T @ P, np.eye(len(sigma)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(Q @ Q.T, np.eye(len(sigma)), rtol=0, atol=1e-9)
    assert sigma == pytest.approx(np.linalg.svd(dense)[1][: len(sigma)], abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("sigma", ["B", "both"])
def test_the_split_is_the_best_approximation_of_its_rank(shape, rank, sigma):
    total, dense, _ = some_products(*shape, 30)
    B, A = (part.numpy() for part in split_svd(total, rank, sigma))
    P, values, Q = np.linalg.svd(dense, full_matrices=False)
    np.testing.assert_allclose(B @ A, (P[:, :rank] * values[:rank]) @ Q[:rank], rtol=0, atol=1e-9)
    # All of Σ in B leaves orthonormal rows in A; its root in both makes them of one size.
    np.testing.assert_allclose(A @ A.T, np.eye(rank) if sigma == "B" else B.T @ B, rtol=0, atol=1e-9)


def test_a_rank_beyond_the_dimensions_loses_nothing_and_is_filled_with_zeros():
    total, dense, _ = some_products(5, 9, 30)
    B, A = (part.numpy() for part in split_svd(total, 8, "both"))
    assert (B.shape, A.shape) == ((5, 8), (8, 9))
    np.testing.assert_allclose(B @ A, dense, rtol=0, atol=1e-9)
    assert not B[:, 5:].any()


def test_the_factors_depend_on_the_sum_alone_not_on_how_it_was_added():
    rng = np.random.default_rng(1)
    B, A = torch.from_numpy(rng.normal(size=(6, 4))), torch.from_numpy(rng.normal(size=(4, 7)))
    whole, parts = LowRankSum(), LowRankSum()
    whole.add(B, A)
    for j in (2, 0, 3, 1):
        parts.add(-B[:, j : j + 1], -A[j : j + 1])
    for one, other in zip(split_svd(whole, 3, "B"), split_svd(parts, 3, "B"), strict=True):
        assert one.numpy() == pytest.approx(other.numpy(), abs=1e-9)


def test_with_sigma_in_B_the_rows_of_A_are_orthonormal_also_beyond_the_rank_of_the_sum():
    """FlexLoRA: A = Vᵀ_{:r}. Rows with σ = 0 are directions that can still learn; rows of zeros never do."""
    total, _, _ = some_products(6, 7, 1)
    _, A = split_svd(total, 5, "B")
    assert (A @ A.T).numpy() == pytest.approx(np.eye(5), abs=1e-9)
