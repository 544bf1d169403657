"""Runs side by side, in numbers and tables, from made-up runs whose numbers are known."""

import shutil

import pytest

from fedhello.errors import ConfigError
from fedhello.report import tables
from fedhello.results.comparison import collect, compare, describe, label_of, run_folders
from fedhello.runs.folder import RunFolder


def described(paths, **how):
    runs, notes = collect(run_folders(paths))
    return describe(compare(runs, notes=notes, **how))


def method(found, label):
    return next(entry for entry in found["methods"] if entry["method"] == label)


def test_a_label_may_name_a_folder():
    assert label_of(" gd-hla:pattern=triangle,../x ") == "gd-hla-pattern-triangle-..-x"


def test_means_and_deviations_are_over_seeds(two_methods):
    found = method(described(two_methods), "gd-hla")
    assert found["seeds"] == [0, 1]
    assert found["mean_last_5"] == {
        "n": 2,
        "mean": pytest.approx(0.75),
        "deviation": pytest.approx(0.3 / 2**0.5),
    }
    assert found["final"]["mean"] == pytest.approx(0.75)
    assert found["bytes_up"] == 200 + 6 * 500


def test_the_default_target_is_98_percent_of_the_best_mean_of_the_last_5(two_methods):
    found = described(two_methods)
    assert found["target"] == pytest.approx(0.98 * 0.75)
    assert not found["target_given"]
    assert "98 % of the best method's" in tables.sentences(found)[0]


def test_bytes_to_the_target_end_with_the_first_round_that_reaches_it(two_methods):
    found = described(two_methods, target=0.7)
    rows = {(row["method"], row["seed"]): row for row in found["runs"]}
    assert rows["fed-hello", 0]["rounds_to_target"] == 2  # 0.6, then 0.7
    assert rows["fed-hello", 0]["bytes_up_to_target"] == 200 + 2 * 1000
    assert rows["fed-hello", 0]["bytes_down_to_target"] == 2 * 3000
    assert rows["fed-hello", 1]["rounds_to_target"] == 1
    assert rows["gd-hla", 0]["rounds_to_target"] is None
    assert rows["gd-hla", 0]["bytes_up_to_target"] is None
    gd_hla = method(found, "gd-hla")
    assert (gd_hla["reached_target"], gd_hla["bytes_up_to_target"]) == (1, 200 + 500)
    assert (gd_hla["flops_to_target"], gd_hla["flops"]) == (1e9, 6e9)
    assert tables.tables(found)[2].rows[1] == ("gd-hla", "1 of 2 seeds", "1.0", "700 B", "3 kB", "1 GFLOP")


def test_a_target_that_nobody_reaches_is_a_dash(two_methods):
    found = described(two_methods, target=0.95)
    assert method(found, "gd-hla")["bytes_up_to_target"] is None
    assert tables.tables(found)[2].rows[1][1:] == ("0 of 2 seeds", "–", "–", "–", "–")


def test_a_target_reached_before_training_costs_what_was_sent_before(two_methods):
    (row, *_) = described(two_methods, target=0.5)["runs"]
    assert (row["rounds_to_target"], row["bytes_up_to_target"], row["bytes_down_to_target"]) == (0, 200, 0)


def test_the_default_target_is_not_below_what_the_best_method_begins_with(made_up):
    runs = [
        made_up("fed-hello-seed0", "fed-hello", 0, [0.6] * 5, start=0.9),
        made_up("fed-hello-seed1", "fed-hello", 1, [0.8] * 5, start=0.7),
        made_up("gd-hla-seed0", "gd-hla", 0, [0.5] * 5, start=0.95),
        made_up("gd-hla-seed1", "gd-hla", 1, [0.5] * 5, start=0.95),
    ]
    found = described(runs)
    assert (found["target"], found["target_is_start"]) == (pytest.approx(0.8), True)  # fed-hello's, the best at the end
    assert tables.sentences(found)[0] == (
        "The target is a test accuracy of 0.8000: what the best method begins with, since 98 % of the best method's "
        "mean of the last 5 rounds is less."
    )
    assert not described(runs, target=0.5)["target_is_start"]


def test_memory_is_told_against_the_references(made_up):
    """A method that needs as much as the reference must be told from one that needs less."""
    runs = [
        made_up("fed-hello-seed0", "fed-hello", 0, [0.6]),
        made_up("full-seed0", "full", 0, [0.6]),
        made_up("legend-seed0", "legend", 0, [0.6], peaks=(0.8e6, None)),
    ]
    cells = [row[6:] for row in tables.tables(described(runs))[1].rows]
    assert cells == [
        ("2 MB (1 block)", "5 MB (6 blocks)"),
        ("2 MB (1 block)", "5 MB (6 blocks)"),
        ("800 kB −60 % (1 block)", "– (6 blocks)"),
    ]


def test_learning_rates_of_their_own_are_part_of_the_methods(two_methods, made_up):
    runs, _ = collect(run_folders(two_methods[:2]))
    runs += collect([RunFolder(made_up("full-seed0", "full", 0, [0.7], "train.lr=0.02"))])[0]
    rates = {"fed-hello": {"rate": 2e-3, "at_edge": False}, "full": {"rate": 0.02, "at_edge": True}}
    tuning = {"seed": 0, "rounds": 3, "rates": [0.001, 2e-3, 0.02]}
    tuning["methods"] = {label: found | {"validation": [0.5, None, 0.625]} for label, found in rates.items()}
    found = describe(compare(runs, tuning=tuning))
    assert found["only_methods_differ"]
    assert not any("train.lr" in note for note in found["notes"])
    (edge,) = [note for note in found["notes"] if "edge" in note]
    assert edge.startswith("the learning rate of full, 0.02, is at the edge")
    assert not describe(compare(runs))["only_methods_differ"]
    assert (method(found, "full")["lr"], method(found, "fed-hello")["lr"]) == (0.02, 2e-3)
    table = tables.tables(found)[-1]
    assert table.columns == ("method", "chosen", "0.001", "0.002", "0.02")
    assert table.rows[1] == ("full", "0.02", "0.500", "–", "0.625")


def test_a_peak_is_the_largest_of_all_seeds(two_methods):
    tiers = method(described(two_methods), "gd-hla")["tiers"]
    assert [tier["peak_bytes"] for tier in tiers] == [3e6, 5e6]


def test_differences_are_against_the_first_or_the_reference_asked_for(two_methods):
    (found,) = described(two_methods)["differences"]
    assert (found["method"], found["n"]) == ("gd-hla", 2)
    assert found["mean"] == pytest.approx(0)  # −0.1 and +0.1
    assert found["verdict"] == "not told apart by 2 seeds"
    (found,) = described(two_methods, reference="gd-hla")["differences"]
    assert found["method"] == "fed-hello"


def test_verdicts_of_several_methods_are_adjusted_and_the_tables_say_so(two_methods, made_up):
    assert not any("Holm" in sentence for sentence in tables.sentences(described(two_methods)))
    two_methods += [made_up(f"rgd-hla-seed{s}", "rgd-hla", s, [a]) for s, a in ((0, 0.1), (1, 0.2001))]
    found = described(two_methods)
    difference = {entry["method"]: entry for entry in found["differences"]}["rgd-hla"]
    assert difference["verdict"] == "worse"
    assert difference["p_adjusted"] == pytest.approx(2 * difference["p"])
    (row,) = (row for row in tables.tables(found)[0].rows if row[0] == "rgd-hla")
    assert row[-2:] == (f"{difference['p_adjusted']:.2g}", "worse")
    assert any("adjusted for 2 methods against one reference (Holm)" in s for s in tables.sentences(found))


def test_an_unfinished_run_is_left_out_with_a_note(two_methods, made_up):
    made_up("rgd-hla-seed0", "rgd-hla", 0, [0.5], status="interrupted")
    found = described([*two_methods, two_methods[0].parent / "rgd-hla-seed0"])
    assert found["labels"] == ["fed-hello", "gd-hla"]
    assert any(note.startswith("rgd-hla-seed0 is left out") for note in found["notes"])


def test_runs_that_differ_in_more_than_the_method_are_noted(two_methods, made_up):
    assert described(two_methods)["notes"] == []
    other = made_up("rgd-hla-seed0", "rgd-hla", 0, [0.5], "train.lr=0.1")
    notes = described([*two_methods, other])["notes"]
    assert any("train.lr" in note for note in notes)
    assert any("different seeds" in note for note in notes)


def test_one_mean_over_two_configurations_is_refused(two_methods, made_up):
    other = made_up("fed-hello-seed2", "fed-hello", 2, [0.5], "train.lr=0.1")
    with pytest.raises(ConfigError, match=r"fed-hello to differ in nothing but the seed; .* train\.lr"):
        described([*two_methods, other])


def test_the_same_method_and_seed_twice_is_refused(two_methods):
    again = two_methods[0].parent / "again" / two_methods[0].name
    shutil.copytree(two_methods[0], again)
    with pytest.raises(ConfigError, match="both fed-hello with seed 0"):
        described([*two_methods, again])
