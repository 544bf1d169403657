import shutil

import pytest
from comparisons import compared

from fedhello.errors import ConfigError


def test_differences_are_against_the_first_or_the_reference_asked_for(two_methods):
    ((label, found),) = compared(two_methods).differences.items()
    assert (label, found.n) == ("gd-hla", 2)
    assert found.mean == pytest.approx(0)  # −0.1 and +0.1
    assert found.verdict == "not told apart by 2 seeds"
    assert list(compared(two_methods, reference="gd-hla").differences) == ["fed-hello"]


def test_an_unfinished_run_is_left_out_with_a_note(two_methods, made_up):
    made_up("rgd-hla-seed0", "rgd-hla", 0, [0.5], status="interrupted")
    found = compared([*two_methods, two_methods[0].parent / "rgd-hla-seed0"])
    assert found.labels == ("fed-hello", "gd-hla")
    assert any(note.startswith("rgd-hla-seed0 is left out") for note in found.notes)


def test_runs_that_differ_in_more_than_the_method_are_noted(two_methods, made_up):
    assert compared(two_methods).notes == ()
    other = made_up("rgd-hla-seed0", "rgd-hla", 0, [0.5], "train.lr=0.1")
    notes = compared([*two_methods, other]).notes
    assert any("train.lr" in note for note in notes)
    assert any("different seeds" in note for note in notes)


def test_one_mean_over_two_configurations_is_refused(two_methods, made_up):
    other = made_up("fed-hello-seed2", "fed-hello", 2, [0.5], "train.lr=0.1")
    with pytest.raises(ConfigError, match=r"fed-hello to differ only in the seed; .* train\.lr"):
        compared([*two_methods, other])


def test_the_same_method_and_seed_twice_is_refused(two_methods):
    again = two_methods[0].parent / "again" / two_methods[0].name
    shutil.copytree(two_methods[0], again)
    with pytest.raises(ConfigError, match="both fed-hello with seed 0"):
        compared([*two_methods, again])
