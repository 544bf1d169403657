import pytest

from fedhello.formatting import budget_words, human_bytes, human_flops, nearest, tier_words
from fedhello.types import Budget, Federation


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (-2_500_000, "-2.5 MB"), (3e15, "3e+03 TB")],
)
def test_bytes_are_in_powers_of_1000(count, expected):
    assert human_bytes(count) == expected


@pytest.mark.parametrize(("count", "expected"), [(None, "–"), (12, "12 FLOP"), (4e10, "40 GFLOP"), (2e15, "2 PFLOP")])
def test_flops_are_in_powers_of_1000(count, expected):
    assert human_flops(count) == expected


def test_a_budget_names_every_limit_that_binds():
    every = Budget(blocks=1, memory=10**6, upload=2000, seconds=5.0, speed=4e10, rank=3)
    assert budget_words(every) == "1 block, rank 3, 1 MB, 5 s at 40 GFLOP/s, 2 kB up"
    assert budget_words(Budget(blocks=2)) == "2 blocks"
    assert budget_words(Budget(blocks=0)) == "0 blocks"


def test_tiers_are_numbers_of_blocks_where_all_are_and_else_whole_budgets():
    counts, other = (Budget(2), Budget(4)), (Budget(2), Budget(memory=10**9))
    assert tier_words(Federation((), counts, 6, 1, 0)) == "2/4 of 6 blocks"
    assert tier_words(Federation((), other, 6, 1, 0)) == "2 blocks | 1 GB for 6 blocks"


def test_the_nearest_word_ends_a_sentence():
    assert nearest("rondus", ["rounds", "epochs"]) == ". Did you mean rounds?"
    assert nearest("Rounds", ["epochs", "rounds"]) == ". Did you mean rounds?"
    assert nearest("early_stopping", ["over_selection", "evaluate_every"]) == "."
    assert nearest("zzz", {"rounds": 1, "epochs": 2}) == "."
