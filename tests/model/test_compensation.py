import numpy as np
import pytest
import torch

from fedhello.model import compensation
from fedhello.model.compensation import DriftCompensation
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import family
from fedhello.model.statistics import PARTS, Moments, StatisticsSettings, head_sums
from fedhello.state import RunState

SHRINKAGES = (0.1, 0.9)


@pytest.fixture
def drift(tiny_model, random_examples, monkeypatch):
    """A head that was solved from a client's sums and follows the server's 12 + 20 samples, and how often it ran."""
    model, runs = tiny_model(), []
    adapter = model.snapshot(share_head=True)
    data = random_examples(samples=30, seed=5)
    sums = head_sums(pooled_features(model, data), torch.from_numpy(data.labels), 3, StatisticsSettings())
    parts = [random_examples(samples=12, seed=1), random_examples(samples=20, seed=2)]
    monkeypatch.setattr(
        compensation, "pooled_features", lambda *arguments: runs.append(1) or pooled_features(*arguments)
    )
    found = DriftCompensation(
        model, parts, lambda sums: family(sums, Moments(), "lda"), Moments(), SHRINKAGES,
        order=np.random.default_rng(0).permutation(32),
    )  # fmt: skip
    base = found.without_head(adapter)
    found.begin(RunState(0, adapter, head_sums={name: getattr(sums, name) for name in PARTS}, head_base=base))
    return found, adapter, sums, runs


def moved(adapter, by):
    return adapter.with_tensors({name: value + by for name, value in adapter.tensors.items()})


def test_where_nothing_moved_the_head_is_that_of_the_sums_as_they_are(drift):
    found, adapter, sums, _ = drift
    followed = found.sums(adapter)
    assert torch.allclose(followed.features.double(), sums.features.double(), atol=1.0)  # units of 2⁻¹²
    head = found.head(adapter)
    W, b = family(sums, Moments(), "lda").at(found.base().shrinkage)
    assert torch.allclose(head.weight.double(), head.temperature * W / W.shape[1] ** 0.5, rtol=1e-3, atol=1e-3)
    assert torch.allclose(head.bias.double(), head.temperature * b, rtol=1e-3, atol=1e-3)
    assert head.shrinkage in SHRINKAGES


def test_losses_are_of_the_validation_data_alone_and_belong_to_the_head(drift):
    found, adapter, _, _ = drift
    after = moved(adapter, 0.2)
    losses = found(after)
    assert (losses.shape, losses.dtype) == ((12,), torch.float64)
    assert found.head(after).loss == pytest.approx(float(losses.mean()))
    assert not torch.equal(found(adapter), losses)


def test_features_of_an_adapter_are_taken_once_and_do_not_depend_on_its_head(drift):
    found, adapter, _, runs = drift
    after = moved(adapter, 0.2)
    found(after), found.head(after), found.sums(after)
    assert len(runs) == 4, "two parts, under the base and under the adapter"
    other_head = after.with_tensors({name: after.tensors[name] + 1 for name in found.model.head_names})
    found(other_head)
    assert len(runs) == 4


def test_features_that_are_not_finite_are_followed_by_nothing(drift):
    found, adapter, _, _ = drift
    broken = moved(adapter, float("nan"))
    assert bool(found(broken).isnan().all())
    assert found.head(broken) is None


def test_a_head_that_was_solved_from_nothing_cannot_follow(drift):
    found, adapter, _, _ = drift
    found.state = None
    with pytest.raises(RuntimeError, match=r"expected a call of begin\(\)"):
        found(adapter)
