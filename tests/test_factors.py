import numpy as np
import pytest
import torch

from fedhello.factors import (
    along_components,
    held_part,
    part,
    send_folded,
    send_part,
    send_without_A,
    spread,
    tail_start,
    unmerged,
)
from fedhello.strategy import AllocationContext
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Adapter, Allocation, Budget, Client, Federation

Q, V = "layer.0.q", "layer.1.v"
SHAPES = {Q: (5, 7), V: (8, 6)}
WORLD = Federation((Client(0, 0, Budget(rank=2), 1),), (Budget(rank=2),), 2, 1, 0, rank=4, scale=0.5)
AT = AllocationContext(WORLD.clients[0], WORLD, round=3)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def adapter():
    tensors = {"head.weight": random(3)}
    for i, (module, (d_out, d_in)) in enumerate(SHAPES.items()):
        tensors |= {module + LORA_A: random(4, d_in, seed=i), module + LORA_B: random(d_out, 4, seed=i + 9)}
    return Adapter(tensors, {n: None if n.startswith("head") else int(n.split(".")[1]) for n in tensors})


def dense(adapter, module, s=0.5):
    """s B A, and what is merged, component by component."""
    A, B = (adapter.tensors[module + end].double().numpy() for end in (LORA_A, LORA_B))
    whole = sum((s * np.outer(B[:, j], A[j]) for j in range(len(A))), start=np.zeros(SHAPES[module]))
    if module + MERGED in adapter.tensors:
        whole = whole + adapter.tensors[module + MERGED].double().numpy()
    if module + MERGED_A in adapter.tensors:
        P, Q_ = (adapter.tensors[module + end].double().numpy() for end in (MERGED_A, MERGED_B))
        whole = whole + sum(np.outer(Q_[:, j], P[j]) for j in range(len(P)))
    return whole


@pytest.mark.parametrize(
    ("r", "shrink", "expected"),
    [
        (8, 0.99, 7),
        (4, 0.5, 2),
        (5, 0.5, 2),
        (1, 0.99, 1),
        (2, 0.1, 1),
        (100, 0.99, 99),
        (50, 0.58, 29),  # 28.999… in binary
    ],
)
def test_the_tail_starts_at_the_floor_and_never_at_zero(r, shrink, expected):
    assert tail_start(r, shrink) == expected


@pytest.mark.parametrize("components", [(0,), (0, 1, 2), (1, 3), (3,), (0, 1, 2, 3)])
def test_a_part_goes_back_to_where_it_came_from(components, adapter):
    for name in (Q + LORA_A, Q + LORA_B):
        value = adapter.tensors[name]
        mine = part(name, value, components)
        along = 0 if name.endswith(LORA_A) else 1
        assert torch.equal(mine, torch.stack([value.select(along, j) for j in components], dim=along))
        mask = torch.tensor([float(j in components) for j in range(4)])
        assert torch.equal(spread(name, mine, value, components), value * along_components(name, mask))
    assert part("head.weight", adapter.tensors["head.weight"], components) is adapter.tensors["head.weight"]


def test_a_client_holds_its_components_of_the_blocks_that_it_has(adapter):
    shapes = {n: tuple(v.shape) for n, v in held_part(adapter, Allocation((0, 1), ranks=(3, 1))).tensors.items()}
    assert shapes == {
        Q + LORA_A: (3, 7), Q + LORA_B: (5, 3), V + LORA_A: (1, 6), V + LORA_B: (8, 1), "head.weight": (3,),
    }  # fmt: skip
    less = held_part(adapter, Allocation((1,), absent=(0,)))
    assert less.tensors.keys() == less.block_of.keys() == {V + LORA_A, V + LORA_B, "head.weight"}
    assert less.tensors[V + LORA_A] is adapter.tensors[V + LORA_A]
    drawn = held_part(adapter, Allocation((0, 1), ranks=(2, 2), components=(1, 3)))
    assert torch.equal(drawn.tensors[Q + LORA_B], adapter.tensors[Q + LORA_B][:, [1, 3]])


def test_a_client_that_holds_all_starts_from_the_global_adapter_itself(adapter):
    task = send_part(adapter, Allocation((1,)), AT)
    assert task.adapter is adapter
    assert (task.client, task.round, task.known) == (0, 3, frozenset())


@pytest.mark.parametrize(("factors", "expected"), [("AB", {LORA_A, LORA_B}), ("A", {LORA_A}), ("B", {LORA_B})])
def test_what_trains_is_the_allocated_factors_and_the_head_never_what_is_merged(factors, expected, adapter):
    whole = adapter.with_tensors({Q + MERGED_A: random(1, 7), Q + MERGED_B: random(5, 1)})
    assert whole.block_of[Q + MERGED_A] == whole.block_of[Q + MERGED_B] == 0
    assert set(whole.names(Allocation((0,), factors=factors))) == {Q + end for end in expected} | {"head.weight"}
    assert list(whole.modules.items()) == [(Q, 0), (V, 1)]


def test_ffa_lora_sends_no_A(adapter):
    task = send_without_A(adapter, Allocation((0, 1), ranks=(2, 2), factors="B"), AT)
    assert task.known == {Q + LORA_A, V + LORA_A}
    assert torch.equal(task.adapter.tensors[Q + LORA_A], adapter.tensors[Q + LORA_A][:2])


@pytest.mark.parametrize("components", [((0,), (2,)), ((1, 3), (0, 1)), ((0, 2, 3), (0, 1, 3)), ((0, 1, 2, 3),) * 2])
def test_fed_plora_folds_the_rest_so_that_a_client_starts_exactly_from_the_global_model(components, adapter):
    r = len(components[0])
    task = send_folded(adapter, Allocation((0, 1), ranks=(r, r), components=components), AT)
    for module, own in zip(SHAPES, components, strict=True):
        A = task.adapter.tensors[module + LORA_A]
        assert torch.equal(A, adapter.tensors[module + LORA_A][list(own)])
        merged = task.adapter.tensors.get(module + MERGED_A, A[:0])
        assert len(A) + len(merged) == 4  # the downlink is always R
        assert dense(task.adapter, module) == pytest.approx(dense(adapter, module), rel=1e-6, abs=1e-6)
    assert set(task.adapter.names(task.allocation)) == set(adapter.names(task.allocation))


@pytest.mark.parametrize("ranks", [{Q: 3}, {Q: 3, V: 1}, {V: 5}, {Q: 9, V: 2}])
def test_unmerged_factors_are_the_same_function(ranks, adapter):
    merged = {}
    for module, m in ranks.items():
        d_out, d_in = SHAPES[module]
        merged |= {module + MERGED_A: random(m, d_in, seed=20), module + MERGED_B: random(d_out, m, seed=21)}
    whole = adapter.with_tensors(merged)
    found = unmerged(whole, 0.5)
    assert found.tensors.keys() == found.block_of.keys() == adapter.tensors.keys()
    assert {found.tensors[module + LORA_A].shape[0] for module in SHAPES} == {4 + max(ranks.values())}
    for module in SHAPES:
        assert dense(found, module) == pytest.approx(dense(whole, module), rel=1e-6, abs=1e-6)


def test_a_matrix_takes_the_place_of_factors_and_is_the_same_function_unmerged(adapter):
    """(5, 7) through the identity on the left, (8, 6) on the right: five and six more components."""
    factors = {module + MERGED_A: random(2, d_in) for module, (_, d_in) in SHAPES.items()}
    factors |= {module + MERGED_B: random(d_out, 2) for module, (d_out, _) in SHAPES.items()}
    matrices = {module + MERGED: random(*shape, seed=22) for module, shape in SHAPES.items()}
    whole = adapter.with_tensors(factors).with_tensors(matrices)
    assert whole.tensors.keys() == whole.block_of.keys() == adapter.tensors.keys() | matrices.keys()
    assert [whole.block_of[module + MERGED] for module in SHAPES] == [0, 1]
    assert set(whole.names(Allocation((0, 1)))) == set(adapter.tensors)
    found = unmerged(whole, 0.5)
    assert {found.tensors[module + LORA_A].shape[0] for module in SHAPES} == {4 + 6}
    for module in SHAPES:
        assert dense(found, module) == pytest.approx(dense(whole, module), rel=1e-6, abs=1e-6)


def test_what_has_nothing_merged_is_returned_as_it_is(adapter):
    assert unmerged(adapter, 0.5) is adapter
