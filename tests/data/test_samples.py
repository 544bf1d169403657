"""What stays of a data set's parts, and what is said of the rest; files that show it are in test_sources.py."""

import pytest

from fedhello.data.columns import Rows
from fedhello.data.samples import (
    check_classes,
    check_parts,
    elsewhere,
    known_names,
    labelled_as,
    samples_of,
    without_repeats,
)
from fedhello.errors import DataError

NAMES = {"train": "a.csv", "test": "b.csv"}


def made(part, *pairs):
    rows = Rows([text for text, _ in pairs], [label for _, label in pairs], [""] * len(pairs), "row {}".format)
    return samples_of(part, rows, "")


def test_a_sample_knows_its_row():
    samples = made("train", ("a", "x"), ("b", "y"))
    assert [sample.place for sample in samples] == ["row 0", "row 1"]


def test_an_empty_part_is_refused_with_the_reason():
    with pytest.raises(DataError, match=r"at least one sample in b\.csv \(data\.test\); because of test"):
        check_parts(NAMES, made("train", ("a", "x")), lambda part: f"because of {part}")
    check_parts({"train": "a.csv"}, made("train", ("a", "x")), str)


def test_where_samples_went():
    samples = made("train", ("a", "x"), ("b", "x"), ("a", "x")) + made("test", ("a", "x"), ("b", "y"))
    kept, notes = without_repeats(samples, "texts")
    assert [sample.part for sample in kept] == ["test", "test"]
    assert notes[0].startswith("3 of 5 samples repeat an earlier text")
    assert elsewhere("train", samples, kept, "texts", NAMES).startswith(
        "all 3 of its samples are in other parts as well"
    )
    with pytest.raises(DataError, match=r"each class in a\.csv; all that are labelled 'x' repeat samples"):
        check_classes(kept, "a.csv", samples)


def test_labels_are_compared_as_names():
    samples = made("train", ("a", "1.0"), ("b", "2"), ("c", "caf\u00e9"))
    assert [sample.value for sample in labelled_as(samples, ["cafe\u0301", "2 "])[0]] == ["b", "c"]
    assert known_names(samples, None) == (samples, [])
    renamed, notes = known_names(samples[:2], None)
    assert [sample.label for sample in renamed] == ["1", "2"]
    assert notes == ["1 of 2 labels are whole numbers with a fraction, such as '1.0', which is read as '1'"]
    assert [sample.label for sample in known_names(samples, ["1.0", "2", "cafe\u0301"])[0]] == [
        "1.0",
        "2",
        "cafe\u0301",
    ]
