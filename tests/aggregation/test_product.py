import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhello.aggregation.lowrank import LowRankSum
from fedhello.aggregation.product import (
    average_corrected,
    average_partitions,
    average_products,
    average_rebalanced,
    average_with_residual,
    corrected_by_cosine,
    corrected_by_least_squares,
    rank_partitions,
)
from fedhello.factors import held_part
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext
from fedhello.types import LORA_A, LORA_B, Adapter, Allocation, Budget, Client, Federation, Update

Q, V = "layer.0.q", "layer.1.v"


def best(dense, rank):
    """The nearest matrix of a rank, from the singular values of the dense one."""
    P, sigma, Q = np.linalg.svd(dense, full_matrices=False)
    return (P[:, :rank] * sigma[:rank]) @ Q[:rank]


@pytest.mark.parametrize("sigma", ["B", "both"])
def test_flexlora_gives_every_rank_the_best_part_of_the_mean_product(sigma, a_round):
    a = a_round((1, 2, 4))
    outcome = a.played(average_products, sigma=sigma)
    for module in (Q, V):
        A, B = a.factors(outcome.adapter, module)
        for r in (1, 2, 4):
            assert B[:, :r] @ A[:r] == pytest.approx(best(a.mean_product(module), r), abs=1e-5)
        np.testing.assert_allclose(A @ A.T, np.eye(4) if sigma == "B" else B.T @ B, rtol=0, atol=1e-4)
    assert outcome.adapter.tensors["head.weight"].numpy() == pytest.approx(a.mean("head.weight"), rel=1e-6)


@pytest.mark.parametrize("ranks", [(1, 2, 4), (4, 4), (2, 2), (1, 3), (3, 1, 2, 3)])
def test_raflora_weighs_each_component_by_those_who_hold_it(ranks, a_round):
    """The partitions' formula, component by component; one that nobody holds keeps its part of the global product."""
    a = a_round(ranks, tiers=(4,))
    outcome = a.played(average_partitions)
    for module in (Q, V):
        expected, (A, B) = 0.0, a.factors(a.context.adapter, module)
        for j in range(4):
            holders = [u for u, r in zip(a.updates, ranks, strict=True) if r > j]
            if not holders:
                expected = expected + np.outer(B[:, j], A[j])
            for u in holders:
                A_k, B_k = a.factors(u, module)
                expected = expected + u.samples / sum(h.samples for h in holders) * np.outer(B_k[:, j], A_k[j])
        A, B = a.factors(outcome.adapter, module)
        np.testing.assert_allclose(B @ A, best(expected, 4), rtol=0, atol=1e-5)
        np.testing.assert_allclose(A @ A.T, B.T @ B, rtol=0, atol=1e-4)
    assert outcome.adapter.tensors["head.weight"].numpy() == pytest.approx(a.mean("head.weight"), rel=1e-6)


@pytest.mark.parametrize(
    ("ranks", "tiers", "R", "expected"),
    [
        ((1, 2), (4,), 4, [(0, 1), (1, 2), (2, 4)]),  # the tier that was not selected counts
        ((2, 2), (), 4, [(0, 2), (2, 4)]),
        ((4,), (None,), 4, [(0, 4)]),
        ((3,), (None,), 4, [(0, 3), (3, 4)]),
    ],
)
def test_partitions_come_from_the_ranks_of_all_tiers(ranks, tiers, R, expected, a_round):
    assert rank_partitions(a_round(ranks, R=R, tiers=tiers).context) == expected


def test_fedex_merges_what_the_mean_factors_miss(a_round):
    a = a_round((4, 4, 4))
    outcome = a.played(average_with_residual)
    for module in (Q, V):
        A, B = a.mean(module + LORA_A), a.mean(module + LORA_B)
        for found, expected in zip(a.factors(outcome.adapter, module), (A, B), strict=True):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
        residual = 0.5 * (a.mean_product(module) - B @ A)
        assert a.dense(outcome.adapter, module) == pytest.approx(0.5 * B @ A + residual, rel=1e-5, abs=1e-5)
        sizes = [v.numel() for n, v in outcome.adapter.tensors.items() if n.startswith(f"{module}.merged")]
        assert 0 < sum(sizes) <= B.shape[0] * A.shape[1]


@pytest.mark.parametrize("penalty", [1e-3, 0.01, 10.0])
def test_fair_by_least_squares_is_ridge_regression(penalty, a_round):
    """ΔB = argmin ‖ΔW − (B̄ + ΔB) Ā‖² + λ ‖ΔB‖², as one ordinary least-squares problem with the penalty as rows."""
    a = a_round((4, 4, 4))
    outcome = a.played(average_corrected, similarity="least-squares", penalty=penalty)
    for module in (Q, V):
        A, B = a.mean(module + LORA_A), a.mean(module + LORA_B)
        rows = np.concatenate([A.T, np.sqrt(penalty) * np.eye(4)])
        target = np.concatenate([(a.mean_product(module) - B @ A).T, np.zeros((4, B.shape[0]))])
        delta = np.linalg.lstsq(rows, target, rcond=None)[0].T
        found = a.factors(outcome.adapter, module)
        assert found[0] == pytest.approx(A, rel=1e-5, abs=1e-6)
        assert found[1] == pytest.approx(B + delta, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "least-squares"])
def test_fair_corrects_no_component_that_nobody_holds(similarity, a_round):
    """Of four components clients hold two: those are corrected as if there were no others, which stay bit by bit."""
    a, alone = a_round((2, 2, 2), R=4), a_round((2, 2, 2), R=2)
    alone = replace(alone, updates=a.updates)
    after, expected = (one.played(average_corrected, similarity=similarity).adapter.tensors for one in (a, alone))
    before = a.context.adapter.tensors
    for module in (Q, V):
        A, B = module + LORA_A, module + LORA_B
        assert torch.equal(after[A][2:], before[A][2:])
        assert torch.equal(after[B][:, 2:], before[B][:, 2:])
        assert torch.equal(after[A][:2], expected[A])
        np.testing.assert_allclose(after[B][:, :2], expected[B], rtol=1e-5, atol=1e-6)


def objective(delta, product, A, B, penalty):
    """1 − cos(ΔW, (B̄ + ΔB) Ā) + λ ‖ΔB‖² with dense matrices."""
    corrected = (B + delta) @ A
    return 1 - (product * corrected).sum() / (product.norm() * corrected.norm()) + penalty * delta.square().sum()


@pytest.mark.parametrize("penalty", [1e-3, 0.01, 1.0])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_fair_by_cosine_minimises_its_objective(penalty, size, a_round):
    a = a_round((4, 4, 4))
    updates = [replace(u, tensors={n: v * size if n.endswith(LORA_B) else v for n, v in u.tensors.items()})
               for u in a.updates]  # fmt: skip
    a = replace(a, updates=updates)
    after = a.played(average_corrected, penalty=penalty).adapter
    for module in (Q, V):
        A, B, product = (torch.from_numpy(x) for x in (
            a.mean(module + LORA_A), a.mean(module + LORA_B), a.mean_product(module)
        ))  # fmt: skip
        delta = (torch.from_numpy(a.factors(after, module)[1]) - B).requires_grad_()
        reached = objective(delta, product, A, B, penalty)
        (slope,) = torch.autograd.grad(reached, delta)
        assert float(slope.norm() * B.norm()) < 1e-3
        reached, at_zero = float(reached.detach()), float(objective(torch.zeros_like(B), product, A, B, penalty))
        assert reached < at_zero
        rng = torch.Generator().manual_seed(0)
        for step in (1e-3, 1e-2, 0.1, 1.0):
            for _ in range(20):
                other = delta.detach() + step * size * torch.randn(B.shape, generator=rng, dtype=B.dtype)
                assert float(objective(other, product, A, B, penalty)) > reached - 1e-9


@pytest.mark.parametrize(
    ("correct", "size"),
    [
        (corrected_by_least_squares, 0.0),
        (corrected_by_least_squares, 1.0),
        (corrected_by_cosine, 0.0),
        (corrected_by_cosine, 1.0),
    ],
)
def test_a_correction_is_finite_where_the_mean_B_is_zero(correct, size):
    """Two clients' B may be opposite; ΔW is not 0 then where their A differ."""
    rng = torch.Generator().manual_seed(0)
    A, B, other = torch.randn(2, 5, generator=rng), torch.randn(4, 2, generator=rng), torch.randn(2, 5, generator=rng)
    product = LowRankSum()
    product.add(size * B, A, 0.5)
    product.add(size * -B, other, 0.5)
    assert correct(product, (A + other) / 2, torch.zeros(4, 2), 0.01).isfinite().all()


@pytest.mark.parametrize("ranks", [(4, 4, 4), (1, 2, 3)])
@pytest.mark.parametrize("factors", ["AB", "A", "B"])
def test_hralora_averages_what_trained_and_balances_the_product(factors, ranks, a_round):
    """A component that a client does not hold is masked there, so it counts as the global one."""
    a = a_round(ranks)
    trained = [end for end, kind in ((LORA_A, "A"), (LORA_B, "B")) if kind in factors]
    updates = [replace(u, tensors={n: v for n, v in u.tensors.items() if n.endswith((*trained, "head.weight"))})
               for u in a.updates]  # fmt: skip
    outcome = a.played(average_rebalanced, updates)
    for module in (Q, V):
        means = dict(zip((LORA_A, LORA_B), a.factors(a.context.adapter, module), strict=True))
        total = sum(u.samples for u in updates)
        for end in trained:
            before, mean = means[end], np.zeros_like(means[end])
            for u, r in zip(updates, ranks, strict=True):
                own, x = before.copy(), u.tensors[module + end].double().numpy()
                own[(slice(r),) if end == LORA_A else (slice(None), slice(r))] = x
                mean += u.samples / total * own
            means[end] = mean
        A, B = a.factors(outcome.adapter, module)
        np.testing.assert_allclose(B @ A, means[LORA_B] @ means[LORA_A], rtol=0, atol=1e-5)
        np.testing.assert_allclose(A @ A.T, B.T @ B, rtol=0, atol=1e-4)
        assert (np.diff(np.diag(A @ A.T)) <= 1e-6).all()  # the largest first: lower ranks get the most
    assert outcome.adapter.tensors["head.weight"].numpy() == pytest.approx(a.mean("head.weight"), rel=1e-6)


@pytest.mark.parametrize(
    ("aggregate", "options"), [(average_with_residual, {}), (average_corrected, {"similarity": "least-squares"})]
)
def test_the_weights_of_a_module_are_those_of_its_contributors(aggregate, options, a_round):
    """One client alone trained a module, so it returns itself there, whoever else took part."""
    a = a_round((4, 4))
    first, second = a.updates
    second = Update(1, 2, second.samples, {n: v for n, v in second.tensors.items() if n.startswith(V)})
    after = a.played(aggregate, [first, second], **options).adapter
    alone = a.context.adapter.with_tensors(first.tensors)
    assert a.dense(after, Q) == pytest.approx(a.dense(alone, Q), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", sorted(name for name, row in METHODS.items() if row.of_products))
def test_however_many_answer_no_more_is_held_than_one_matrix_per_sum_and_a_few_updates(name):
    """Bytes of all tensors that are alive beside those of before; raFLoRA has a sum for each partition of the ranks."""
    d, R, modules, clients = 64, 8, ("layer.0.q", "layer.1.v"), 120
    rng = torch.Generator().manual_seed(0)
    start = {m + end: torch.randn(*size, generator=rng) for m in modules
             for end, size in ((LORA_A, (R, d)), (LORA_B, (d, R)))}  # fmt: skip
    block_of = {n: int(n.split(".")[1]) for n in start}
    tiers = (Budget(rank=4), Budget(rank=R))
    members = tuple(Client(k, k % 2, tiers[k % 2], samples=1 + k % 5) for k in range(clients))
    world = Federation(members, tiers, len(modules), clients, seed=0, rank=R)
    ranks = {k: 4 if name == "raflora" and k % 2 == 0 else R for k in range(clients)}
    told = {k: Allocation((0, 1), ranks=(r, r)) for k, r in ranks.items()}
    context = AggregationContext(Adapter(start, block_of), world, 0, told)

    def alive():
        gc.collect()
        return sum(one.nbytes for one in gc.get_objects() if isinstance(one, torch.Tensor))

    def updates(count):
        for k in range(count):
            like = held_part(context.adapter, told[k]).tensors
            yield Update(k, 0, 1 + k % 5, {n: torch.randn(v.shape, generator=rng) for n, v in like.items()})
            if k % 20 == 19:
                found.append(alive() - before)

    found, before = [], alive()
    METHODS[name].aggregate(context, updates(clients))
    update, matrices = sum(v.nbytes for v in start.values()), len(modules) * d * d * 8
    sums = 2 if name == "raflora" else 1
    assert max(found) <= sums * matrices + 6 * update  # of which means of factors in float64 are two
    assert found[-1] <= found[2] + update
