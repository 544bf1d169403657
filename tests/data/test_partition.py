import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.data.partition import (
    PARTITIONS,
    by_group,
    dirichlet,
    iid,
    label_histogram,
    natural,
    own,
    pathological,
    register_partition,
)
from fedhello.errors import ConfigError, DataError

few = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_disjoint_and_complete(parts, samples):
    assert sorted(np.concatenate(parts).tolist()) == list(range(samples))
    assert all(np.all(np.diff(part) > 0) for part in parts), "each part is ascending"


def equal(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@st.composite
def labelled(draw, most_classes=5):
    """Labels of C classes, each with at least one sample, in any order."""
    classes = draw(st.integers(1, most_classes))
    extra = draw(st.lists(st.integers(0, classes - 1), max_size=60))
    return np.array(draw(st.permutations([*range(classes), *extra])))


# iid


@few
@given(samples=st.integers(1, 200), clients=st.integers(1, 20), seed=seeds)
def test_iid_is_disjoint_complete_and_even(samples, clients, seed):
    if samples < clients:
        with pytest.raises(DataError):
            iid(samples, clients, rng(seed))
        return
    parts = iid(samples, clients, rng(seed))
    sizes = [len(part) for part in parts]
    assert len(parts) == clients
    assert max(sizes) - min(sizes) <= 1
    assert_disjoint_and_complete(parts, samples)


def test_iid_deals_ten_samples_to_three_clients_as_four_three_three():
    assert [len(part) for part in iid(10, 3, rng())] == [4, 3, 3]


def test_iid_shuffles():
    assert not equal(iid(100, 2, rng()), [np.arange(50), np.arange(50, 100)])


def test_iid_refuses_fewer_samples_than_clients():
    with pytest.raises(DataError, match="at least 1 training samples for each of 4 clients; there are 3"):
        iid(3, 4, rng())


# dirichlet


@few
@given(
    labels=labelled(),
    clients=st.integers(1, 6),
    alpha=st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 100.0, 1e10]),
    minimum=st.integers(1, 4),
    seed=seeds,
)
def test_dirichlet_is_disjoint_complete_and_gives_each_client_the_minimum(labels, clients, alpha, minimum, seed):
    if len(labels) < clients * minimum:
        with pytest.raises(DataError):
            dirichlet(labels, clients, alpha, minimum, rng(seed))
        return
    parts = dirichlet(labels, clients, alpha, minimum, rng(seed))
    assert len(parts) == clients
    assert min(len(part) for part in parts) >= minimum
    assert_disjoint_and_complete(parts, len(labels))


def test_dirichlet_tops_up_to_the_minimum_and_no_further():
    # With a vanishing alpha each class goes to one client whole: 2 classes of 20 leave at least 3 of 5 clients empty.
    labels = np.repeat([0, 1], 20)
    sizes = [len(part) for part in dirichlet(labels, 5, 1e-10, 4, rng())]
    assert sizes.count(4) >= 3
    assert sum(sizes) == 40


def test_dirichlet_can_top_up_to_exactly_equal_sizes():
    sizes = [len(part) for part in dirichlet(np.repeat([0, 1], 10), 4, 1e-10, 5, rng())]
    assert sizes == [5, 5, 5, 5]


def test_dirichlet_with_small_alpha_makes_clients_more_unlike_each_other_than_with_large():
    labels = np.repeat(np.arange(4), 250)

    def largest_share(alpha):
        counts = label_histogram(dirichlet(labels, 5, alpha, 1, rng()), labels, 4)
        return (counts.max(axis=1) / counts.sum(axis=1)).mean()

    assert largest_share(0.05) > 0.6
    assert largest_share(1000.0) < 0.3  # an even quarter, give or take


def test_dirichlet_refuses_too_few_samples():
    with pytest.raises(DataError, match="at least 3 training samples for each of 4 clients; there are 11"):
        dirichlet(np.zeros(11, dtype=int), 4, 1.0, 3, rng())
    assert [len(part) for part in dirichlet(np.zeros(12, dtype=int), 4, 1.0, 3, rng())] == [3, 3, 3, 3]


# pathological


@few
@given(
    classes=st.integers(1, 6),
    clients=st.integers(1, 10),
    k=st.integers(1, 6),
    minimum=st.integers(1, 5),
    extra=st.integers(0, 9),
    seed=seeds,
)
def test_pathological_laws(classes, clients, k, minimum, extra, seed):
    enough = -(-minimum // k) * clients + extra  # of each class for every client, so for any holders
    labels = rng(seed).permutation(np.repeat(np.arange(classes), enough))
    if k > classes or clients * k < classes:
        with pytest.raises(DataError):
            pathological(labels, clients, k, minimum, rng(seed))
        return
    parts = pathological(labels, clients, k, minimum, rng(seed))
    held = label_histogram(parts, labels, classes) > 0
    holders = held.sum(axis=0)
    assert len(parts) == clients
    assert (held.sum(axis=1) == k).all(), "exactly k classes per client"
    assert holders.max() - holders.min() <= 1, "classes are dealt evenly"
    assert min(len(part) for part in parts) >= minimum
    assert_disjoint_and_complete(parts, len(labels))


def test_pathological_gives_each_holder_its_share_of_the_minimum_of_every_class():
    labels = np.repeat(np.arange(5), 100)
    counts = label_histogram(pathological(labels, 20, 2, 9, rng()), labels, 5)
    assert counts[counts > 0].min() >= 5  # ⌈9/2⌉
    assert ((counts > 0).sum(axis=0) == 8).all()  # 20 · 2 / 5 holders


def test_pathological_works_when_classes_are_just_large_enough():
    labels = np.repeat([0, 1], 10)
    counts = label_histogram(pathological(labels, 2, 2, 10, rng()), labels, 2)
    assert counts.tolist() == [[5, 5], [5, 5]]


@pytest.mark.parametrize("k", [0, 3])
def test_pathological_refuses_a_number_of_classes_that_cannot_be(k):
    with pytest.raises(DataError, match=f"within 1 and 2, the number of classes; found {k}"):
        pathological(np.repeat([0, 1], 50), 4, k, 1, rng())


def test_pathological_refuses_a_class_without_holder():
    with pytest.raises(DataError, match="2 clients with 2 classes each hold at most 4 of 5"):
        pathological(np.repeat(np.arange(5), 10), 2, 2, 1, rng())


def test_pathological_refuses_a_class_that_is_too_small_for_its_holders():
    labels = np.array([0] * 50 + [1] * 9)
    with pytest.raises(DataError, match="class 1 to have 5 samples for each of its 2 holders; it has 9"):
        pathological(labels, 2, 2, 10, rng())


# natural


@few
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    clients=st.integers(1, 8),
    seed=seeds,
)
def test_natural_laws(sizes, clients, seed):
    groups = rng(seed).permutation(np.repeat([f"g{i}" for i in range(len(sizes))], sizes)).tolist()
    try:
        parts = natural(groups, clients, rng(seed))
    except DataError:
        # Possible only where a group would be dealt to more clients than it has samples.
        assert len(sizes) < clients
        assert min(sizes) < clients
        return
    members = [{groups[i] for i in part} for part in parts]
    assert len(parts) == clients
    assert min(len(part) for part in parts) >= 1
    assert_disjoint_and_complete(parts, len(groups))
    if len(sizes) <= clients:
        assert all(len(names) == 1 for names in members), "no client mixes groups"
    else:
        assert sum(len(names) for names in members) == len(sizes), "no group is torn apart"


def test_natural_gives_large_groups_more_clients():
    groups = ["large"] * 60 + ["small"] * 20
    parts = natural(groups, 4, rng())
    assert sorted((groups[part[0]], len(part)) for part in parts) == [
        ("large", 20),
        ("large", 20),
        ("large", 20),
        ("small", 20),
    ]


def test_natural_packs_many_groups_onto_few_clients_evenly():
    # The largest group goes first, always to the client that has least: e | -, e | d, e | dc, eb | dc, eba | dc.
    groups = list("abbcccddddeeeee")
    parts = natural(groups, 2, rng())
    assert sorted("".join(groups[i] for i in part) for part in parts) == ["abbeeeee", "cccdddd"]


def test_natural_gives_as_many_groups_as_clients_one_each():
    parts = natural(["b", "a", "b", "c"], 3, rng())
    assert sorted(part.tolist() for part in parts) == [[0, 2], [1], [3]]


@pytest.mark.parametrize("sizes", [range(10, 70, 10), range(10, 110, 10)], ids=["one each", "more groups"])
def test_no_client_is_the_large_one_by_its_id(sizes):
    """Tiers go by id: were the largest parts always the first clients', a tier would be a size."""
    groups = [f"g{size}" for size in sizes for _ in range(size)]
    largest = groups.index(f"g{max(sizes)}")
    owners = [[largest in part for part in natural(groups, 6, rng(seed))].index(True) for seed in range(40)]
    assert set(owners) == set(range(6))


def test_natural_refuses_a_group_smaller_than_its_number_of_clients():
    with pytest.raises(DataError, match="a sample for each of its 2 clients"):
        natural(["a", "b"], 3, rng())


# all of them


def test_label_histogram_counts_each_clients_classes():
    labels = np.array([0, 1, 1, 2, 2, 2])
    parts = [np.array([0, 1, 3]), np.array([2, 4, 5])]
    assert label_histogram(parts, labels, 4).tolist() == [[1, 1, 1, 0], [0, 1, 2, 0]]


LABELS = np.repeat(np.arange(4), 30)
ALL = {
    "iid": lambda g: iid(120, 5, g),
    "dirichlet": lambda g: dirichlet(LABELS, 5, 0.5, 2, g),
    "pathological": lambda g: pathological(LABELS, 6, 2, 4, g),
    "natural": lambda g: natural(["x"] * 70 + ["y"] * 50, 5, g),
}


@pytest.mark.parametrize("kind", ALL)
def test_equal_seeds_give_equal_partitions_and_others_do_not(kind):
    assert equal(ALL[kind](rng(7)), ALL[kind](rng(7)))
    assert not equal(ALL[kind](rng(7)), ALL[kind](rng(8)))


# by group


def test_each_group_is_one_clients_in_the_order_of_names():
    parts = by_group(["b", "a", "b", "c"], 3)
    assert [part.tolist() for part in parts] == [[1], [0, 2], [3]]


def test_there_are_as_many_clients_as_groups():
    with pytest.raises(DataError, match=r"expected data\.clients to be 2, .*found 3"):
        by_group(["b", "a"], 3)


# from outside


@pytest.fixture
def registered():
    def enter(function):
        register_partition("of-this-test", function)

    yield enter
    PARTITIONS.table.pop("of-this-test", None)


def test_a_partition_from_outside_is_any_disjoint_and_complete_one(registered):
    registered(lambda labels, clients, rng: [np.flatnonzero(labels == k)[::-1] for k in range(clients)])
    labels = np.array([2, 0, 1, 0])
    assert [part.tolist() for part in own("of-this-test", labels, 3, rng(), {})] == [[1, 3], [2], [0]]
    assert labels.tolist() == [2, 0, 1, 0]


def none_of_yours(labels, clients, rng):
    raise KeyError("none")


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ([[0, 1, 2]], "expected the partition of-this-test to return 2 parts, data.clients; found 1"),
        ([[0, 1], [2]], "the first, at position 3, is there in no part"),
        ([[0, 1], [1, 2, 3]], "the first, at position 1, is there 2 times"),
        ([[0, 1], [2, 3, 4]], r"positions within 0 … 3; found 4"),
        ([[0, 1], [2, -1]], r"positions within 0 … 3; found -1"),
        ([[0.0, 1.0], [2.0, 3.0]], "integers; part 0 has the type float64"),
        ([[[0, 1]], [[2, 3]]], r"shape \(1, 2\)"),
        (5, "expected the partition of-this-test to return 2 lists"),
    ],
)
def test_what_is_no_partition_is_refused_in_one_sentence(registered, returned, sentence):
    registered(lambda labels, clients, rng: returned)
    with pytest.raises(DataError, match=sentence):
        own("of-this-test", np.zeros(4, dtype=int), 2, rng(), {})
    registered(none_of_yours)
    with pytest.raises(ConfigError, match="it raised KeyError: 'none'"):
        own("of-this-test", np.zeros(4, dtype=int), 2, rng(), {})
