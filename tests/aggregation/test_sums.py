"""What a server needs of its clients: for most methods, one sum."""

from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.aggregation.mean import WeightedMean
from fedhello.aggregation.sums import SumAggregator
from fedhello.methods import METHODS

PRODUCTS = {"fedex-lora", "flexlora", "flora", "lora-fair", "raflora"}
SINGLE = {"hetlora", "local-only", "replication"}
OF_A_SUM = sorted(METHODS.keys() - PRODUCTS - SINGLE)


def test_which_methods_need_a_sum_alone():
    needs = {name: method.needs for name, method in METHODS.items()}
    assert {name for name, need in needs.items() if need == "products"} == PRODUCTS
    assert {name for name, need in needs.items() if need == "single"} == SINGLE
    assert {name for name, need in needs.items() if need == "sum"} == set(OF_A_SUM)


@pytest.mark.parametrize("name", OF_A_SUM)
def test_finishing_the_sum_is_aggregating_the_updates(name, a_round):
    """finish(Σ_k contribution(k)) = aggregate(updates), whatever the order in which contributions are added."""
    ranks = (2, 4, 1, 4) if METHODS[name].allocates == "ranks" else (4, 4, 4, 4)
    a = a_round(ranks)
    adapter = replace(a.context.adapter, tensors={n: value.double() for n, value in a.context.adapter.tensors.items()})
    context = replace(a.context, adapter=adapter, distil=lambda models, how, round: models)
    updates = [replace(u, tensors={n: value.double() for n, value in u.tensors.items()}) for u in a.updates]
    aggregate = METHODS[name].bind().aggregate
    assert isinstance(aggregate, SumAggregator)

    total = WeightedMean()
    for update in (updates[k] for k in (2, 0, 3, 1)):
        own = WeightedMean()
        aggregate.contribute(context, update, own)
        assert own.sums.keys() <= aggregate.reference(context).keys()
        total.include(own)
    found, expected = aggregate.finish(context, total), aggregate(context, iter(updates))

    assert found.adapter.tensors.keys() == expected.adapter.tensors.keys()
    for n, value in expected.adapter.tensors.items():
        assert torch.allclose(found.adapter.tensors[n], value, rtol=0, atol=1e-12), n
    assert found.method_state.keys() == expected.method_state.keys()
    assert any(not torch.equal(value, adapter.tensors[n]) for n, value in expected.adapter.tensors.items())


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="expected options of the aggregator; found wait"):
        average_layerwise.with_options(wait=3)
