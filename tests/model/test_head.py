import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.errors import DataError
from fedhello.model.head import add_up, class_sums, prototype_head


def test_prototypes_by_hand():
    # Two classes on two axes: h = (3, 0) and (0, 1); means (1, 0) and (0, 1), their mean (½, ½), ρ = 2.
    sums = class_sums(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), classes=2)
    weight, bias = prototype_head(sums, scale=np.sqrt(2))
    assert torch.allclose(weight, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    assert torch.allclose(bias, torch.zeros(2))


def test_logits_are_those_of_centred_features():
    rng = torch.Generator().manual_seed(0)
    h = torch.nn.functional.normalize(torch.randn(30, 5, generator=rng) + 2, dim=1) * 4
    y = torch.arange(30) % 3
    sums = class_sums(h, y, classes=3)
    weight, bias = prototype_head(sums, scale=1.0)
    means = torch.stack([h[y == c].mean(0) / 4 for c in range(3)])
    expected = (h - 4 * means.mean(0)) @ torch.nn.functional.normalize(means - means.mean(0), dim=1).T
    assert torch.allclose(h @ weight.T + bias, expected, atol=1e-5)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_prototypes_do_not_depend_on_the_partition(seed, clients):
    rng = np.random.default_rng(seed)
    h = torch.from_numpy(rng.normal(size=(40, 6)).astype(np.float32))
    y = torch.from_numpy(np.concatenate([np.arange(4), rng.integers(4, size=36)]))
    whole = prototype_head(class_sums(h, y, 4), scale=3.0)
    owner = torch.from_numpy(rng.integers(clients, size=40))
    parts = [class_sums(h[owner == k], y[owner == k], 4) for k in range(clients)]
    split = prototype_head(add_up(parts), scale=3.0)
    for one, other in zip(whole, split, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)


def test_adding_up_leaves_the_parts_alone():
    part = class_sums(torch.eye(2), torch.tensor([0, 1]), classes=2)
    add_up([part, part])
    assert part.counts.tolist() == [1, 1]


def test_a_class_that_no_client_holds_is_named():
    sums = class_sums(torch.eye(2), torch.tensor([0, 0]), classes=3)
    with pytest.raises(DataError, match=r"classes \[1, 2\] have none"):
        prototype_head(sums, scale=1.0)
