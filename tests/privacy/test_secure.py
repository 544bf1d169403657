"""What a client puts into a masked vector, and what the server makes of the sum; no model, no protocol."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.errors import PrivacyError, UpdateError
from fedhello.methods import METHODS
from fedhello.privacy.secure import LARGEST_LOSS, MASKED, Opened, SecureRound, SecureSettings, secure_mean
from fedhello.strategy import AggregationContext
from fedhello.types import Adapter, Allocation, Budget, Client, Federation, Task, Update

START = Adapter(
    {"a": torch.full((2,), 0.5), "b": torch.zeros(3), "head": torch.ones(2)}, {"a": 0, "b": 1, "head": None}
)
ALLOCATIONS = {0: Allocation((0,)), 1: Allocation((0, 1)), 2: Allocation((0,))}
SAMPLES = (3, 1, 4)


def agreed(aggregator=average_layerwise, **settings):
    tiers = (Budget(blocks=1), Budget(blocks=2))
    clients = tuple(Client(k, k % 2, tiers[k % 2], samples=n) for k, n in enumerate(SAMPLES))
    federation = Federation(clients, tiers, num_blocks=2, clients_per_round=3, seed=0)
    return SecureRound(aggregator, federation, START, SecureSettings(), **settings)


def update(k, change, loss=1.0):
    names = START.names(ALLOCATIONS[k])
    tensors = {name: START.tensors[name] + change for name in names}
    return Update(k, 0, SAMPLES[k], tensors, {"loss": loss, "batches": 1.0})


def masked(how, updates):
    """The updates of clients whose masks are all zero."""
    for one in updates:
        vector = how.vector(Task(one.client, 0, ALLOCATIONS[one.client], START), one)
        yield Update(one.client, 0, one.samples, {MASKED: torch.from_numpy(vector.view("<i4"))})


def plain_sum(vectors):
    return Opened(np.sum([vector for _, vector in vectors], axis=0, dtype="<u4"), np.zeros(0, dtype=int))


def finished(how, updates, unmask=plain_sum):
    context = AggregationContext(START, how.federation, 0, ALLOCATIONS)
    return secure_mean(context, masked(how, updates), agreed=how, unmask=unmask)


def test_the_result_is_the_layerwise_mean_with_the_loss_of_all():
    result = finished(agreed(), [update(0, 0.1, loss=2.0), update(1, 0.2, loss=1.0), update(2, -0.3, loss=0.5)])
    mean = (3 * 0.1 + 1 * 0.2 + 4 * -0.3) / 8
    assert result.adapter.tensors["a"].tolist() == pytest.approx([0.5 + mean] * 2, abs=1e-6)
    assert result.adapter.tensors["b"].tolist() == pytest.approx([0.2] * 3, abs=1e-6)
    assert result.train_loss == pytest.approx((3 * 2.0 + 1 * 1.0 + 4 * 0.5) / 8, abs=1e-5)
    assert not result.flags and result.failed is None


def test_a_tensor_that_nobody_trained_is_the_same_object():
    result = finished(agreed(), [update(0, 0.1), update(2, 0.1)])
    assert result.adapter.tensors["b"] is START.tensors["b"]


def test_weights_are_capped_by_the_clients_themselves():
    result = finished(agreed(most_samples=1), [update(0, 0.1), update(1, 0.2), update(2, -0.3)])
    assert result.adapter.tensors["a"].tolist() == pytest.approx([0.5] * 2, abs=1e-6)


def test_all_vectors_are_of_one_length_whatever_was_trained():
    how = agreed()
    assert len({len(one.tensors[MASKED]) for one in masked(how, [update(0, 0.1), update(1, 0.1)])}) == 1
    assert how.encoding(ALLOCATIONS[0]) is how.encoding(ALLOCATIONS[1])
    assert how.encoding(replace(ALLOCATIONS[0], head=False)) != how.encoding(ALLOCATIONS[0])


def test_a_loss_beyond_the_largest_counts_as_that_and_values_that_are_not_finite_do_not_count():
    result = finished(agreed(), [update(k, 0.0, loss=1e9) for k in range(3)])
    assert result.train_loss == pytest.approx(LARGEST_LOSS, rel=1e-5)
    with pytest.raises(UpdateError, match="expected a finite update"):
        finished(agreed(), [update(0, float("inf"))])


def test_a_sum_that_cannot_be_had_is_a_failed_attempt():
    def refused(vectors):
        list(vectors)
        raise PrivacyError("expected 3 clients to stay; found 2")

    result = finished(agreed(), [update(0, 0.1)], refused)
    assert result.failed == "the secure sum failed: expected 3 clients to stay; found 2"
    assert result.adapter.tensors == START.tensors


def test_groups_that_are_added_up_do_not_wrap_around():
    """Three clients at the limit, in groups that hold fewer: n is that of the whole round."""
    how = replace(agreed(), settings=SecureSettings(group=1))
    result = finished(how, [update(k, 2.0) for k in range(3)])
    assert result.adapter.tensors["a"].tolist() == pytest.approx([2.5] * 2, abs=1e-5)


def test_only_linear_rules_take_changes():
    assert METHODS["helora-pad"].aggregate.linear is False
    assert all(
        method.aggregate.linear
        for name, method in METHODS.items()
        if isinstance(method.aggregate, type(average_layerwise)) and name != "helora-pad"
    )
