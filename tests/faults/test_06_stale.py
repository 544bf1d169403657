"""Case 6: an update of another round or another run."""

import pytest


@pytest.mark.parametrize("changes", [{"round": 4}, {"round": 6}, {"run": "another run"}, {"run": ""}, {"round": -5}])
def test_another_round_or_run_is_stale(letter, changes):
    ((key, found),) = changes.items()
    payload = letter.write(header=letter.header(**changes))
    assert letter.reason(payload) == "stale"
    right = getattr(letter.expected, key)
    assert letter.detail(payload) == f"expected {key} {right!r}; found {found!r}, from client 3 in round 5"


@pytest.mark.parametrize(
    "changes", [{"round": 5.0}, {"round": "5"}, {"round": None}, {"run": 5}, {"run": ["this run"]}]
)
def test_what_only_looks_alike_is_stale_too(letter, changes):
    assert letter.reason(letter.write(header=letter.header(**changes))) == "stale"


@pytest.mark.parametrize("key", ["run", "client", "round", "samples", "metrics"])
def test_nothing_of_it_may_be_left_out_or_added(letter, key):
    header = letter.header()
    assert letter.reason(letter.write(header=header.replace(f'"{key}"'.encode(), b'"other"'))) == "malformed"
    assert letter.reason(letter.write(header=header[:-1] + b', "more": 1}')) == "malformed"
