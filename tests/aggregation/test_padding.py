from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhello.aggregation.padding import average_by_norm, average_padded, average_replicated, pad, product_norm
from fedhello.types import LORA_A, LORA_B, Update

FACTORS = ("layer.0.q" + LORA_A, "layer.0.q" + LORA_B, "layer.1.v" + LORA_A, "layer.1.v" + LORA_B)


def padded(name, x, R, padding):
    """HeLoRA-Pad's four fillings (and ours), component by component: A's rows, or B's columns."""
    rows = list(x if name.endswith(LORA_A) else x.T)
    filling = {
        "zero": np.zeros_like(rows[0]),
        "mean": np.full_like(rows[0], x.mean()),
        "linear": sum(rows) / len(rows),
        "adjacent": rows[-1],
    }
    kind = ("linear" if name.endswith(LORA_A) else "zero") if padding == "safe" else padding
    whole = np.stack(rows + [filling[kind]] * (R - len(rows)))
    return whole if name.endswith(LORA_A) else whole.T


@pytest.mark.parametrize(
    ("padding", "A", "B"),
    [
        ("zero", [[1, 2], [3, 6], [0, 0]], [[1, 3, 0], [5, 7, 0]]),
        ("mean", [[1, 2], [3, 6], [3, 3]], [[1, 3, 4], [5, 7, 4]]),
        ("linear", [[1, 2], [3, 6], [2, 4]], [[1, 3, 2], [5, 7, 6]]),
        ("adjacent", [[1, 2], [3, 6], [3, 6]], [[1, 3, 3], [5, 7, 7]]),
        ("safe", [[1, 2], [3, 6], [2, 4]], [[1, 3, 0], [5, 7, 0]]),
    ],
)
def test_paddings_by_hand(padding, A, B):
    assert pad(LORA_A, torch.tensor([[1.0, 2], [3, 6]]), 3, padding).tolist() == A
    assert pad(LORA_B, torch.tensor([[1.0, 3], [5, 7]]), 3, padding).tolist() == B


@pytest.mark.parametrize("padding", ["zero", "mean", "linear", "adjacent", "safe"])
@pytest.mark.parametrize("weighting", ["samples", "rank", "samples_rank"])
def test_helora_pads_and_averages_with_weights_by_rank(padding, weighting, a_round):
    ranks = (1, 2, 4)
    a = a_round(ranks)
    after = a.played(average_padded, padding=padding, weighting=weighting).adapter.tensors
    w = [{"samples": u.samples, "rank": r, "samples_rank": u.samples * r}[weighting]
         for u, r in zip(a.updates, ranks, strict=True)]  # fmt: skip
    for name in (*FACTORS, "head.weight"):
        values = [u.tensors[name].double().numpy() for u in a.updates]
        if name in FACTORS:
            values = [padded(name, x, 4, padding) for x in values]
        expected = sum(a * x for a, x in zip(w, values, strict=True)) / sum(w)
        assert after[name].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("padding", "times"), [("zero", 1.0), ("mean", 1.0), ("linear", 1.745), ("adjacent", 3.55), ("safe", 1.0)]
)
def test_how_much_larger_a_padded_product_is(padding, times):
    """‖pad(B) pad(A)‖ / ‖B A‖ from rank 3 to 8, mean over 20 pairs of random factors.

    Orthogonal components of one size give √(1 + 1 + (1 + 5)²) / √3 = 3.56 for ``adjacent``; for ``linear``, five times
    the product of the means, √(2 + (1 + 5/3)²) / √3 = 1.74. The mean of all entries of random factors is nearly 0.
    """
    rng, found = torch.Generator().manual_seed(0), []
    for _ in range(20):
        A, B = torch.randn(3, 384, generator=rng), torch.randn(384, 3, generator=rng)
        found.append(product_norm(pad(LORA_A, A, 8, padding), pad(LORA_B, B, 8, padding)) / product_norm(A, B))
    assert np.mean(found) == pytest.approx(times, rel=0.02)


def test_the_default_padding_keeps_what_a_client_trained(a_round):
    a = a_round((3,), R=8)
    A, B = a.factors(a.updates[0], "layer.0.q")
    assert a.dense(a.played(average_padded).adapter, "layer.0.q") == pytest.approx(0.5 * B @ A, abs=1e-5)


def test_only_zeros_and_safe_padding_keep_what_a_client_trained(a_round):
    """Copies in both factors add products that no client trained: here two more of the last component."""
    a = a_round((2,))
    A, B = a.factors(a.updates[0], "layer.0.q")
    for padding in ("zero", "safe"):
        alone = a.played(average_padded, padding=padding).adapter
        assert a.dense(alone, "layer.0.q") == pytest.approx(0.5 * B @ A, abs=1e-5)
    adjacent = a.played(average_padded, padding="adjacent").adapter
    expected = B @ A + 2 * np.outer(B[:, -1], A[-1])
    assert a.dense(adjacent, "layer.0.q") == pytest.approx(0.5 * expected, abs=1e-5)


@pytest.mark.parametrize("r", [1, 3])
def test_the_norm_of_a_product_is_the_dense_ones(r):
    rng = np.random.default_rng(r)
    A, B = rng.normal(size=(r, 9)), rng.normal(size=(6, r))
    assert product_norm(torch.from_numpy(A), torch.from_numpy(B)) == pytest.approx(np.linalg.norm(B @ A))


def test_hetlora_weighs_by_the_norm_of_the_whole_models_product(a_round):
    a = a_round((1, 2, 4), fresh=True)  # what is received has a tail of norm 0, so nothing is pruned
    outcome = a.played(average_by_norm)
    assert outcome.method_state == {}
    w = []
    for u in a.updates:
        products = [B @ A for A, B in (a.factors(u, module) for module in ("layer.0.q", "layer.1.v"))]
        w.append(np.sqrt(sum((product**2).sum() for product in products)))
    for name in FACTORS:
        values = [padded(name, u.tensors[name].double().numpy(), 4, "zero") for u in a.updates]
        expected = sum(b * x for b, x in zip(w, values, strict=True)) / sum(w)
        assert outcome.adapter.tensors[name].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert outcome.adapter.tensors["head.weight"].numpy() == pytest.approx(a.mean("head.weight"), rel=1e-6)


def test_hetlora_changes_nothing_where_every_product_is_zero(a_round):
    a = a_round((2, 4))
    zeros = [replace(u, tensors={n: v * 0 if n.endswith(LORA_B) else v for n, v in u.tensors.items()})
             for u in a.updates]  # fmt: skip
    after = a.played(average_by_norm, zeros, rank_min=4).adapter.tensors
    assert all(torch.equal(after[name], a.context.adapter.tensors[name]) for name in FACTORS)


def with_tail(a, factor, start):
    """One client that returns what it got, but B's columns from ``start`` on multiplied."""
    tensors = {name: value.clone() for name, value in a.context.adapter.tensors.items()}
    for name in FACTORS:
        if name.endswith(LORA_B):
            tensors[name][:, start:] *= factor
    return [Update(0, 2, 3, tensors)]


@pytest.mark.parametrize(
    ("R", "shrink", "rank_min", "factor", "kept"),
    [
        (8, 0.99, 1, 0.5, 7),  # ⌊0.99 · 8⌋ = 7, where rounding would give 8
        (8, 0.99, 1, 1.0, 8),  # as large as before is not smaller
        (8, 0.99, 1, 2.0, 8),
        (8, 0.5, 1, 0.5, 4),
        (8, 0.5, 6, 0.5, 6),
        (8, 0.99, 8, 0.5, 8),
        (8, 0.99, 20, 0.5, 8),  # a client below r_min is not pruned, nor raised
        (2, 0.1, 1, 0.5, 1),
        (1, 0.99, 1, 0.5, 1),
    ],
)
def test_hetlora_prunes_a_rank_whose_tail_fades(R, shrink, rank_min, factor, kept, a_round):
    a = a_round((R,), R=R)
    tail = max(1, int(shrink * R))
    outcome = a.played(average_by_norm, with_tail(a, factor, tail), shrink=shrink, rank_min=rank_min)
    assert {key: int(value) for key, value in outcome.method_state.items()} == ({"rank/0": kept} if kept < R else {})
    for module in ("layer.0.q", "layer.1.v"):
        A, B = a.factors(outcome.adapter, module)
        assert not A[kept:].any()
        assert not B[:, kept:].any()
        assert A[:kept].any(axis=1).all()


def test_hetlora_measures_the_tail_from_the_shrunken_rank_also_above_the_least_rank(a_round):
    """Tail product from ⌊0.5·8⌋ = 4 on: smaller than before although the part from r_min = 6 on is larger."""
    a = a_round((8,), R=8)
    (u,) = with_tail(a, 0.01, 4)
    tensors = {n: v * (torch.arange(8) >= 6) * 1.01 + v * (torch.arange(8) < 6) if n.endswith(LORA_B) else v
               for n, v in a.context.adapter.tensors.items()}  # fmt: skip
    for n in FACTORS:
        if n.endswith(LORA_B):
            tensors[n][:, 4:6] = u.tensors[n][:, 4:6]
    outcome = a.played(average_by_norm, [replace(u, tensors=tensors)], shrink=0.5, rank_min=6)
    assert {key: int(value) for key, value in outcome.method_state.items()} == {"rank/0": 6}


@pytest.mark.parametrize(
    "ranks",
    [(1, 4), (1, 4, 4, 2), (1, 2), (2, 3, 2), (3, 1, 3)],
    ids=["two levels", "three levels", "half the rank", "higher ones come later", "higher ones come first"],
)
def test_replication_copies_missing_components_from_the_clients_of_highest_rank(ranks, a_round):
    a, most = a_round(ranks), max(ranks)
    after, before = a.played(average_replicated).adapter.tensors, a.context.adapter.tensors
    for name in FACTORS:
        along = 0 if name.endswith(LORA_A) else 1

        def component(tensors, j, name=name, along=along):
            return tensors[name].double().numpy().take(j, axis=along)

        expected = []
        for j in range(most):
            full = [u for u, r in zip(a.updates, ranks, strict=True) if r == most]
            h = sum(u.samples * component(u.tensors, j) for u in full) / sum(u.samples for u in full)
            rows = [
                u.samples * (component(u.tensors, j) if j < r else h) for u, r in zip(a.updates, ranks, strict=True)
            ]
            expected.append(sum(rows) / sum(u.samples for u in a.updates))
        held = after[name].narrow(along, 0, most)
        assert held.numpy() == pytest.approx(np.stack(expected, axis=along), rel=1e-5, abs=1e-6)
        assert torch.equal(after[name].narrow(along, most, 4 - most), before[name].narrow(along, most, 4 - most))
    assert after["head.weight"].numpy() == pytest.approx(a.mean("head.weight"), rel=1e-6)
