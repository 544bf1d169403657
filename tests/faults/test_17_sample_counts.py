"""Case 17: sample counts that are none, and ones above what was declared."""

import pytest

from fedhello.engine.wire import decode


@pytest.mark.parametrize("count", [0, -5, 1e18, 10**18, "7", 3.7, 40.0, True, None, [40]])
def test_what_is_no_count_is_refused(letter, count):
    assert letter.reason(letter.write(header=letter.header(samples=count))) == "wrong count"


def test_not_a_number_is_no_json(letter):
    header = letter.header().replace(b'"samples": 40', b'"samples": NaN')
    assert letter.reason(letter.write(header=header)) == "malformed"


@pytest.mark.parametrize(("stated", "counted"), [(1, 1), (39, 39), (40, 40), (41, 40), (10**9, 40)])
def test_a_count_weighs_at_most_what_was_declared(letter, stated, counted):
    assert decode(letter.write(header=letter.header(samples=stated)), letter.expected).samples == counted


@pytest.mark.parametrize("batches", [0, -1, 0.5, 41, 1e9])
def test_impossible_numbers_of_batches_are_refused(letter, batches):
    """They are weights, too, under ``method.weighting: batches``."""
    metrics = {**letter.metrics, "batches": batches}
    reason = "out of bounds" if batches < 0 else "wrong count"
    assert letter.reason(letter.write(header=letter.header(metrics=metrics))) == reason
