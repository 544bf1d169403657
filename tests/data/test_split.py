import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.data.split import stratified_split
from fedhello.errors import DataError

PARTS = ("train", "validation", "test", "proxy")


def together(split):
    return np.concatenate([getattr(split, name) for name in PARTS])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=4),
    validation=st.floats(0.1, 0.3),
    test=st.floats(0.1, 0.3),
    proxy=st.integers(4, 8),
    shuffle=st.integers(0, 2**31),
)
def test_the_parts_are_disjoint_complete_ascending_and_of_the_asked_sizes(counts, validation, test, proxy, shuffle):
    labels = np.random.default_rng(shuffle).permutation(np.repeat(np.arange(len(counts)), counts))
    split = stratified_split(labels, validation=validation, test=test, proxy=proxy)
    assert sorted(together(split).tolist()) == list(range(len(labels)))
    assert all(np.all(np.diff(getattr(split, name)) > 0) for name in PARTS)
    assert len(split.test) == round(test * len(labels))
    assert len(split.validation) == round(validation * len(labels))
    assert len(split.proxy) == proxy
    assert set(labels[split.train]) == set(range(len(counts)))


def test_every_part_has_the_proportions_of_the_whole():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    split = stratified_split(labels, validation=0.1, test=0.2, proxy=20)
    assert np.bincount(labels[split.test]).tolist() == [12, 6, 2]
    assert np.bincount(labels[split.validation]).tolist() == [6, 3, 1]
    assert np.bincount(labels[split.proxy]).tolist() == [12, 6, 2]
    assert np.bincount(labels[split.train]).tolist() == [30, 15, 5]


def test_the_split_is_the_same_each_time():
    labels = np.repeat([0, 1], 50)
    one, other = (stratified_split(labels, validation=0.1, test=0.2, proxy=10) for _ in range(2))
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in PARTS)


def test_the_split_does_not_depend_on_numpys_global_state():
    labels = np.repeat([0, 1], 50)
    np.random.seed(1)
    one = stratified_split(labels, validation=0.1, test=0.2, proxy=0)
    np.random.seed(2)
    assert np.array_equal(one.test, stratified_split(labels, validation=0.1, test=0.2, proxy=0).test)


def test_another_seed_splits_otherwise():
    labels = np.repeat([0, 1], 50)
    one = stratified_split(labels, validation=0.1, test=0.2, proxy=10)
    other = stratified_split(labels, validation=0.1, test=0.2, proxy=10, seed=1)
    assert not np.array_equal(one.test, other.test)


def test_no_proxy_leaves_that_part_empty():
    split = stratified_split(np.repeat([0, 1], 10), validation=0.1, test=0.2, proxy=0)
    assert [len(getattr(split, name)) for name in PARTS] == [14, 2, 4, 0]


def test_a_class_with_one_sample_is_refused_by_number_and_count():
    with pytest.raises(DataError, match="class 1 has 1 in all"):
        stratified_split(np.array([0] * 40 + [1]), validation=0.1, test=0.2, proxy=0)


def test_a_class_that_would_be_held_out_whole_is_refused():
    # Of 2 samples of class 1, the test set and the validation set would take one each.
    with pytest.raises(DataError, match="expected every class"):
        stratified_split(np.array([0] * 10 + [1] * 2), validation=0.4, test=0.4, proxy=0)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"validation": 0.1, "test": 0.2, "proxy": 30}, "proxy"),  # nothing left for training
        ({"validation": 0.1, "test": 0.03, "proxy": 0}, "test"),  # 1 sample for 2 classes
        ({"validation": 0.03, "test": 0.2, "proxy": 0}, "validation"),
    ],
)
def test_too_few_samples_are_refused_naming_the_part(options, part):
    with pytest.raises(DataError, match=rf"data\.{part}\."):
        stratified_split(np.repeat([0, 1], 20), **options)


def test_given_parts_stay_and_the_rest_is_split():
    labels = np.tile([0, 1], 50)
    given = np.arange(80, 100)
    split = stratified_split(labels, validation=0.25, test=given, proxy=10)
    assert split.test.tolist() == given.tolist()
    assert (len(split.validation), len(split.proxy), len(split.train)) == (20, 10, 50)
    assert sorted(together(split).tolist()) == list(range(100))
    both = stratified_split(labels, validation=np.array([3, 5]), test=given, proxy=0)
    assert (both.validation.tolist(), len(both.train)) == ([3, 5], 78)


def test_a_class_of_a_given_part_alone_does_not_count_in_the_rest():
    labels = np.array([0, 2] * 10 + [1])
    split = stratified_split(labels, validation=0.2, test=np.array([20]), proxy=2)
    assert np.bincount(labels[split.validation]).tolist() == [2, 0, 2]


def test_one_category_alone_is_split_as_well():
    split = stratified_split(np.zeros(20, dtype=int), validation=0.1, test=0.2, proxy=1)
    assert [len(getattr(split, name)) for name in PARTS] == [13, 2, 4, 1]


@pytest.mark.parametrize("part", ["proxy", "public"])
def test_a_part_of_fewer_samples_than_classes_leaves_every_class_one_to_train_on(part):
    labels = np.concatenate([np.repeat(np.arange(50), 2), np.arange(50)])
    options = {"validation": np.arange(100, 120), "test": np.arange(120, 150), "proxy": 0} | {part: 40}
    split = stratified_split(labels, **options)
    found = getattr(split, part)
    assert (len(found), len(np.intersect1d(found, split.train))) == (40, 0)
    assert set(labels[split.train]) == set(range(50))
    assert np.array_equal(found, getattr(stratified_split(labels, **options), part))


def test_a_part_that_would_take_the_last_sample_of_a_class_is_refused():
    with pytest.raises(
        DataError, match=r"expected 5 samples for proxy .* 12 are left\. Add data, or change data\.proxy"
    ):
        stratified_split(
            np.append(np.arange(10), [0, 1]), validation=np.array([], dtype=int), test=np.array([], dtype=int), proxy=5
        )
