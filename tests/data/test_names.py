"""Names of classes, groups and columns: one form of each."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.data.names import as_name, clean, look_alikes, rewritten, shown, whole_names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\u00a0a b\u3000\t\n", "a b"),
        ("\u200ba\ufeff\u2060", "a"),
        ("a\u200bb", "a\u200bb"),
        ("\ufb01", "\ufb01"),
        ("\u212b", "\u00c5"),
    ],
)
def test_a_name_is_in_one_unicode_form_and_stripped(written, name):
    assert clean(written) == name


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=8))
def test_a_clean_name_is_clean(text):
    assert clean(clean(text)) == clean(text)


class NAType:
    """Like what pandas writes for a missing value, which is neither equal to itself nor a truth value."""

    def __bool__(self):
        raise TypeError


MISSING = [
    None,
    float("nan"),
    np.float32("nan"),
    Decimal("nan"),
    NAType(),
    "",
    " \u00a0\u200b",
    "nan",
    "NaN",
    " <NA>",
    "NaT",
]


@pytest.mark.parametrize("value", MISSING, ids=range(len(MISSING)))
def test_what_is_missing_is_no_name(value):
    assert as_name(value) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"), (1.0, "1"), (np.int8(1), "1"), (np.float32(1), "1"), (Decimal("1.00"), "1"), (-0.0, "0"), ("1", "1"),
        (True, "True"), (np.bool_(False), "False"), (2**64 - 1, str(2**64 - 1)), ("1.0", "1.0"), ("None", "None"),
        (0.5, ""), (float("inf"), ""), (1e300, ""), (Decimal("1e999999"), ""), (b"x", ""), ([1], ""),
    ],
)  # fmt: skip
def test_a_value_has_one_name_or_none(value, name):
    assert as_name(value) == name


def test_a_number_of_thousands_of_digits_is_no_name():
    assert as_name(10**5000) == ""


def test_whole_numbers_lose_their_fractions_together():
    assert whole_names(["1", "2.0", "-3.00"]) == {"1": "1", "2.0": "2", "-3.00": "-3"}
    assert whole_names(["1", "2"]) == whole_names(["1.0", "a"]) == whole_names(["1.0", "2.5"]) == {}


def test_names_that_look_alike_are_found():
    assert look_alikes(["A", "a", "b", "new york", "new  york", "\uff42"]) == [
        ("A", "a"),
        ("new york", "new  york"),
        ("b", "\uff42"),
    ]


def test_a_note_counts_what_is_written_otherwise():
    assert rewritten(["a", 1], ["a", "1"], "labels") == []
    (note,) = rewritten([" a", "b\u00a0", "b\u00a0", "c"], ["a", "b", "b", "c"], "labels")
    assert note.startswith("3 of 4 labels are read")
    assert note.endswith(r"NFC: ' a' as 'a', 'b\xa0' as 'b'")


def test_a_long_name_is_cut_in_messages():
    assert shown("a" * 60) == repr("a" * 60)
    assert len(shown("a" * 10**6)) == 63
