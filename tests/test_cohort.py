"""Clients and what they can afford."""

from fedhello.cohort import Budget


def test_a_budget_that_only_counts_states_no_bytes_and_no_seconds():
    assert Budget(blocks=2).only_counts and Budget(rank=4).only_counts
    assert not any(Budget(2, **{limit: 1}).only_counts for limit in ("memory", "upload", "seconds"))


def test_a_budget_names_the_limits_that_are_given():
    assert Budget(blocks=0, memory=5, cache=7).limits == {"blocks": 0, "memory": 5, "cache": 7}
    assert Budget(blocks=1, cache=7).only_counts
