"""Case 20: metrics that are too many, none, or beyond reason."""

import json

import pytest

from fedhello.client.settings import ALWAYS_MEASURED


def stated(letter, changes):
    return letter.write(header=letter.header(metrics={**letter.metrics, **changes}))


@pytest.mark.parametrize("value", [None, True, "low", "1.5", [], [1], {}, {"loss": 1}])
def test_what_is_no_number_is_refused(letter, value):
    assert letter.reason(stated(letter, {"loss": value})) == "out of bounds"


@pytest.mark.parametrize("value", [1e16, -1e300, 10**16])
def test_what_nothing_measures_is_refused(letter, value):
    assert letter.reason(stated(letter, {"seconds": value})) == "out of bounds"


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_what_is_not_finite_is_refused(letter, value):
    header = letter.header().replace(b'"loss": 1.0', b'"loss": ' + value)
    assert letter.reason(letter.write(header=header)) in ("malformed", "out of bounds")


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "Loss", "", "predicted_peak_bytes", "../loss"])
def test_an_unknown_name_is_refused(letter, name):
    assert letter.reason(stated(letter, {name: 1.0})) == "malformed"


@pytest.mark.parametrize("name", ALWAYS_MEASURED)
def test_a_name_may_not_be_missing(letter, name):
    metrics = {known: value for known, value in letter.metrics.items() if known != name}
    assert letter.reason(letter.write(header=letter.header(metrics=metrics))) == "malformed"


@pytest.mark.parametrize("metrics", [None, 3, [], "loss", [["loss", 1.0]]])
def test_metrics_that_are_no_object_are_refused(letter, metrics):
    assert letter.reason(letter.write(header=letter.header(metrics=metrics))) == "malformed"


@pytest.mark.parametrize(
    "metrics", [{f"m{i}": 1.0 for i in range(10**5)}, {"loss": "x" * 10**6}, {"loss": json.loads("[" * 99 + "]" * 99)}]
)
def test_a_flood_is_refused_in_few_words(letter, metrics):
    payload = letter.write(header=letter.header(metrics=metrics))
    assert letter.reason(payload) in ("too large", "out of bounds", "malformed")
    assert letter.reason(payload, max_bytes=10**8) == "malformed"
    assert len(letter.detail(payload, max_bytes=10**8)) < 400
