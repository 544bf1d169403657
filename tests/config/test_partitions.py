"""Each kind of partition deals as the function of its name does, with the values that the configuration states."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from refused import refusal

from fedhello.config.load import load_config
from fedhello.config.partitions import OwnPartition, Partition
from fedhello.data import partition
from fedhello.data.settings import Pool

LABELS = np.arange(120) % 4
POOL = Pool(LABELS, [f"shop {i % 3}" for i in range(120)], ("a", "b", "c", "d"))


def read(**stated):
    return TypeAdapter(Partition).validate_python(stated)


def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize(
    ("stated", "dealt"),
    [
        ({"kind": "iid"}, lambda: partition.iid(120, 3, rng())),
        ({"kind": "dirichlet", "alpha": 0.3, "minimum": 2}, lambda: partition.dirichlet(LABELS, 3, 0.3, 2, rng())),
        (
            {"kind": "pathological", "classes_per_client": 3, "minimum": 1},
            lambda: partition.pathological(LABELS, 3, 3, 1, rng(), POOL.label_names),
        ),
        ({"kind": "natural", "column": "shop"}, lambda: partition.natural(POOL.groups, 3, rng())),
        ({"kind": "files"}, lambda: partition.by_group(POOL.groups, 3)),
    ],
)
def test_a_kind_deals_as_the_function_of_its_name(stated, dealt):
    found, expected = read(**stated).deal(POOL, 3, rng()), dealt()
    assert [list(part) for part in found] == [list(part) for part in expected]
    assert sorted(i for part in found for i in part) == list(range(120))


def test_a_partition_from_outside_is_dealt_with_its_options():
    def in_turn(labels, clients, rng, *, first: int = 0):
        return [range((first + k) % clients, len(labels), clients) for k in range(clients)]

    partition.register_partition("of-this-test", in_turn)
    try:
        found = read(kind="of-this-test", first=1)
        assert isinstance(found, OwnPartition)
        assert [part[0] for part in found.deal(POOL, 3, rng())] == [1, 2, 0]
    finally:
        del partition.PARTITIONS.table["of-this-test"]


def test_without_a_kind_it_is_the_default_one():
    assert read(classes_per_client=3).model_dump() == {"kind": "pathological", "classes_per_client": 3, "minimum": 10}
    again = read(kind="iid")
    assert TypeAdapter(Partition).validate_python(again) is again


@pytest.mark.parametrize(
    "stated",
    [
        {"kind": "dirichlet", "alpha": 0},
        {"kind": "dirichlet", "minimum": 0},
        {"kind": "pathological", "classes_per_client": 0},
        {"kind": "natural"},
        {"kind": "iid", "alpha": 1.0},
        {"kind": ""},
    ],
)
def test_values_out_of_range_and_keys_of_another_kind_are_refused(stated):
    with pytest.raises(ValidationError):
        read(**stated)


def test_an_override_can_replace_a_whole_section():
    config = load_config(None, ["data.partition={kind: dirichlet, alpha: 0.1}"])
    assert config.data.partition.model_dump() == {"kind": "dirichlet", "alpha": 0.1, "minimum": 10}


def test_one_key_of_the_default_partition_can_be_overridden_alone():
    found = load_config(None, ["data.partition.classes_per_client=3"]).data.partition
    assert found.model_dump() == {"kind": "pathological", "classes_per_client": 3, "minimum": 10}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.partition={kind: natural}", "data.partition.column"),
        ("data.partition={kind: dirichlet, alpha: 0}", "data.partition.alpha"),
        ("data.partition={kind: dirichlet, alpha: low}", "data.partition.alpha"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(override, key):
    assert refusal(override).startswith(f"{key}: ")
