"""Digests of data: what changes one, and what does not."""

from dataclasses import replace

import numpy as np
import pytest

from fedhello.data.dataset import DataSet, Picture
from fedhello.data.digest import DataDigest, PartDigest, digest_of

DATA = DataSet(("ab", "c", "d"), np.array([0, 1, 1]), ("x", "y"), groups=("g", "g", "h"))
ALL = np.arange(3)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ("a", "bc", "d")},  # where one text ends counts
        {"inputs": ("c", "ab", "d")},
        {"inputs": (("ab", ""), "c", "d")},
        {"labels": np.array([1, 1, 1])},
        {"label_names": ("x", "z")},
        {"groups": ("g", "h", "h")},
        {"kind": "pairs"},
    ],
)
def test_content_order_labels_by_name_and_groups_count(changes):
    assert digest_of(replace(DATA, **changes), ALL) != digest_of(DATA, ALL)
    assert digest_of(replace(DATA), ALL) == digest_of(DATA, ALL)


def test_only_the_samples_asked_for_count_in_their_order():
    assert digest_of(replace(DATA, inputs=("ab", "c", "other")), ALL[:2]) == digest_of(DATA, ALL[:2])
    assert digest_of(DATA, ALL[::-1]) != digest_of(DATA, ALL)


def test_labels_count_by_name_and_not_by_number():
    assert digest_of(replace(DATA, labels=np.array([1, 0, 0]), label_names=("y", "x")), ALL) == digest_of(DATA, ALL)


def test_pictures_count_by_the_content_of_their_files_and_tensors_by_values(tmp_path):
    def of(content):
        return digest_of(replace(DATA, inputs=(content,) * 3, kind="images"), ALL)

    one, two = (tmp_path / name for name in ("one", "two"))
    one.write_bytes(b"picture")
    two.write_bytes(b"picture")
    assert of(Picture(one, "one")) == of(Picture(two, "elsewhere"))
    two.write_bytes(b"Picture")
    assert of(Picture(one, "one")) != of(Picture(two, "one"))
    assert of(np.float32([0, 1])) == of(np.float32([0, 1, 2])[:2]) != of(np.float32([[0, 1]]))
    assert of(np.float32([0, 1])) != of(np.int64([0, 1]))


def test_parts_that_one_side_does_not_know_are_not_compared():
    one, other = PartDigest(1, "one"), PartDigest(1, "other")
    there = DataDigest(("x",), {"train": one, "test": one, "proxy": one})
    assert there.changed(DataDigest(("x",), {"test": other, "proxy": one})) == ["test"]
    assert there.changed(there) == []
