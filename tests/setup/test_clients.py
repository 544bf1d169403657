from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.config.choices import with_choices
from fedhello.config.load import load_config
from fedhello.config.schema import TierConfig
from fedhello.config.settings import training_settings
from fedhello.setup.clients import assign_tiers, clients_of, federate, tiers_of
from fedhello.setup.federation import empty_federation


def tiers(*shares):
    return [TierConfig(share=share, blocks=1).share for share in shares]


def sizes(clients, *shares):
    assigned = assign_tiers(clients, tiers(*shares))
    assert len(assigned) == clients
    return [assigned.count(g) for g in range(len(shares))]


def test_clients_are_assigned_by_id_in_the_order_of_the_tiers():
    assert assign_tiers(5, tiers(0.4, 0.6)) == (0, 0, 1, 1, 1)


def test_a_hundred_by_thirds_is_34_33_33():
    assert sizes(100, 1 / 3, 1 / 3, 1 / 3) == [34, 33, 33]
    assert sizes(100, "1/3", "1/3", "1/3") == [34, 33, 33]


@pytest.mark.parametrize(
    ("clients", "shares", "expected"),
    [
        (10, (1,), [10]),
        (10, (0.5, 0.5), [5, 5]),
        (99, (1 / 3, 1 / 3, 1 / 3), [33, 33, 33]),
        (20, (1 / 3, 1 / 3, 1 / 3), [7, 7, 6]),
        (10, (0.25, 0.25, 0.5), [3, 2, 5]),  # quotas 2.5, 2.5, 5: the first of equal remainders
        (10, (0.31, 0.34, 0.35), [3, 3, 4]),  # quotas 3.1, 3.4, 3.5: the largest remainder, not the first
        (5, (0.2, 0.3, 0.5), [1, 2, 2]),  # quotas 1, 1.5, 2.5: equal remainders, whatever floats say
        (10, (0.15, 0.05, 0.8), [2, 0, 8]),  # quotas 1.5, 0.5, 8: likewise
        (1, (0.2, 0.3, 0.5), [0, 0, 1]),
        (2, (1 / 3, 1 / 3, 1 / 3), [1, 1, 0]),
    ],
)
def test_sizes_follow_the_largest_remainder(clients, shares, expected):
    assert sizes(clients, *shares) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(clients=st.integers(1, 2000), weights=st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_every_client_has_a_tier_and_every_tier_its_quota_rounded_up_or_down(clients, weights):
    shares = [weight / sum(weights) for weight in weights]
    assigned = assign_tiers(clients, tiers(*shares))
    assert len(assigned) == clients
    assert list(assigned) == sorted(assigned)
    for g, weight in enumerate(weights):
        quota = Fraction(weight * clients, sum(weights))
        assert quota - 1 < assigned.count(g) < quota + 1


@pytest.mark.parametrize("loss", ["restricted", "cross_entropy"])
def test_rows_of_the_logits_layer_belong_to_classes_where_the_loss_is_restricted(loss, tiny_model):
    model = tiny_model(classes=3)
    overrides = [
        f"train.loss={loss}",
        "train.clients_per_round=1",
        "data.clients=2",
        "clients.tiers=[{share: 1, blocks: 1}]",
    ]
    parts, labels = [np.array([0, 1]), np.array([2, 3])], np.array([0, 1, 1, 2])
    config = with_choices(load_config(None, overrides))
    empty, shapes = empty_federation(config, model), [((2, 1), [(2, 1)])] * 2
    everyone = clients_of(parts, labels, tiers_of([1.0], empty.tiers, 2, model), empty.tiers)
    federation, notes = federate(empty, everyone, shapes, None, training_settings(config))
    assert notes == ()
    shapes = {name: tuple(model.read([name])[name].shape) for name in federation.class_rows}
    assert sorted(shapes.values()) == ([(3,), (3, 8)] if loss == "restricted" else [])
    assert set(shapes) <= set(model.head_names)
    assert [client.classes for client in federation.clients] == [(0, 1), (1, 2)]
