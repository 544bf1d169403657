"""Rows of the head are averaged over the clients that hold the class, whatever the aggregator."""

from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext
from fedhello.types import Adapter, Budget, Client, Federation, Update

AVERAGING = [name for name in METHODS if name != "local-only"]
ONE = Budget(blocks=1)


def head_after(name, a, classes, rows=("head.weight",)):
    """The head of three rows, and the rows of each client, under a method with its default options."""
    clients = tuple(replace(c, classes=classes[c.id]) for c in a.context.federation.clients)
    world = replace(a.context.federation, clients=clients, class_rows=rows)
    context = replace(a.context, federation=world, distil=lambda models, how, t: models)
    return METHODS[name].bind().aggregate(context, iter(a.updates)).adapter.tensors["head.weight"]


@pytest.mark.parametrize("name", AVERAGING)
def test_a_row_is_the_mean_over_those_who_hold_its_class(name, a_round):
    """Of 3 and 1 samples: class 0 is the first client's, class 1 is both clients', nobody has class 2."""
    a = a_round((4, 4))
    one, other = (u.tensors["head.weight"].double() for u in a.updates)
    w = 0.5 if name.startswith("fedra") else 0.75
    found = head_after(name, a, [(0, 1), (1,)])
    assert float(found[0]) == pytest.approx(float(one[0]), rel=1e-6)
    assert float(found[1]) == pytest.approx(float(w * one[1] + (1 - w) * other[1]), rel=1e-6)
    assert torch.equal(found[2], a.context.adapter.tensors["head.weight"][2])


@pytest.mark.parametrize("name", AVERAGING)
def test_nothing_changes_where_all_hold_all_or_absent_classes_have_gradients(name, a_round):
    a = a_round((4, 4))
    plain = head_after(name, a, [(), ()], rows=())
    assert torch.equal(head_after(name, a, [(0, 1, 2), (0, 1, 2)]), plain)
    assert torch.equal(head_after(name, a, [(0, 1), (1,)], rows=()), plain)
    assert torch.equal(head_after(name, a, [(), ()]), plain)  # a task without classes


def test_only_the_logits_layer_has_rows_of_classes():
    """Two classes, two inner values; clients of 1 and 3 samples whose ids are not their places in the federation."""
    ones = {"dense": torch.ones(2, 2), "out.weight": torch.ones(2, 2), "out.bias": torch.ones(2)}
    clients = (Client(4, 0, ONE, 1, (0,)), Client(7, 0, ONE, 3, (0, 1)))
    world = Federation(clients, (ONE,), 1, 2, seed=0, class_rows=("out.weight", "out.bias"))
    updates = [Update(k, 0, n, {name: value * x for name, value in ones.items()}) for k, n, x in ((4, 1, 2), (7, 3, 6))]
    after = average_layerwise(
        AggregationContext(Adapter(ones, dict.fromkeys(ones)), world, 0, {}), updates
    ).adapter.tensors
    assert after["dense"].tolist() == [[5, 5], [5, 5]]
    assert after["out.weight"].tolist() == [[5, 5], [6, 6]]
    assert after["out.bias"].tolist() == [5, 6]
