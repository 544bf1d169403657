import pytest
from comparisons import compared, method

from fedhello.report import tables
from fedhello.results.compared import CostToTarget, TunedRate, Tuning
from fedhello.results.comparison import collect, compare, run_folders
from fedhello.runs.folder import RunFolder


def heads(table):
    return [column.title for column in table.columns]


def texts(found, which):
    return [[text for text, _ in row] for row in tables.tables(found)[which].cells()]


def test_the_default_target_is_98_percent_of_the_best_mean_of_the_last_5(two_methods):
    found = compared(two_methods)
    assert found.target == pytest.approx(0.98 * 0.75)
    assert found.target_rule == "share"
    assert "98 % of the best method's" in tables.sentences(found)[0]


def test_bytes_to_the_target_end_with_the_first_round_that_reaches_it(two_methods):
    found = compared(two_methods, target=0.7)
    costs = {(run.method, run.seed): run.to_target for run in found.runs}
    assert costs["fed-hello", 0] == CostToTarget(2, 200 + 2 * 1000, 2 * 3000, 2e9)  # 0.6, then 0.7
    assert costs["fed-hello", 1].rounds == 1
    assert costs["gd-hla", 0] is None
    gd_hla = method(found, "gd-hla")
    assert (gd_hla.reached_target, gd_hla.to_target.bytes_up) == (1, 200 + 500)
    assert (gd_hla.to_target.flops, gd_hla.flops) == (1e9, 6e9)
    assert texts(found, 2)[1] == ["gd-hla", "1 of 2 seeds", "1.0", "700 B", "3 kB", "1 GFLOP"]


def test_a_target_that_nobody_reaches_is_a_dash(two_methods):
    found = compared(two_methods, target=0.95)
    assert method(found, "gd-hla").to_target is None
    assert texts(found, 2)[1][1:] == ["0 of 2 seeds", "–", "–", "–", "–"]


def test_the_default_target_is_above_every_methods_start_and_no_run_reaches_it_by_doing_nothing(made_up):
    runs = [
        made_up("head-only-seed0", "head-only", 0, [0.80] * 5, start=0.80),
        made_up("fed-hello-seed0", "fed-hello", 0, [0.79, 0.81, 0.81, 0.81, 0.81, 0.81], start=0.75),
    ]
    found = compared(runs)
    assert (found.target, found.start, found.target_rule) == (pytest.approx(0.805), 0.8, "halfway")
    assert [run.to_target and run.to_target.rounds for run in found.runs] == [None, 2]
    assert tables.sentences(found)[0] == (
        "The target is a test accuracy of 0.8050: halfway from the accuracy before training (0.8000, the highest of "
        "all methods) to the best method's mean of the last 5 rounds, since 98 % of the best method's mean of the last "
        "5 rounds is no more than that start."
    )
    assert compared(runs, target=0.5).target == 0.5


def test_without_a_gain_over_the_start_there_is_no_target_and_no_costs_to_it(made_up):
    found = compared(
        [
            made_up("head-only-seed0", "head-only", 0, [0.8] * 5, start=0.8),
            made_up("fed-hello-seed0", "fed-hello", 0, [0.85] + [0.79] * 5, start=0.7),
        ]
    )
    assert (found.target, found.target_rule) == (None, "none")
    assert {run.to_target for run in found.runs} == {None}
    assert {row["target"] for row in found.rows()} == {None}
    assert not any("target" in table.title for table in tables.tables(found))
    assert tables.sentences(found)[0] == (
        "No method's mean of the last 5 rounds is above the accuracy before training (0.8000, the highest of all "
        "methods): there is no target, and no costs to it."
    )


def test_accuracies_at_equal_upload_are_those_of_the_last_state_that_cost_no_more(made_up):
    """The ladder's top is what the most expensive run takes: 200 + 4 · 1000 = 4200."""
    runs = [
        made_up("full-seed0", "full", 0, [0.6, 0.7, 0.8, 0.75], flops=1e9),
        made_up("legend-seed0", "legend", 0, [0.55, 0.65, 0.6, 0.7], up=100, flops=5e8),
    ]
    found = compared(runs)
    assert found.equal_cost["bytes_up"] == (262, 525, 1050, 2100, 4200)
    by_upload = {entry.method: [at.mean for at in entry.at_equal_cost["bytes_up"]] for entry in found.methods}
    assert by_upload["full"] == [0.5, 0.5, 0.5, 0.6, 0.75]  # 200, 1200, 2200, 3200, 4200
    assert by_upload["legend"] == [0.5, 0.6, 0.7, 0.7, 0.7]  # 200, 300, 400, 500, 600
    by_flops = {entry.method: [at.mean for at in entry.at_equal_cost["flops"]] for entry in found.methods}
    assert by_flops["full"] == [0.5, 0.5, 0.6, 0.7, 0.75]
    assert by_flops["legend"] == [0.5, 0.55, 0.65, 0.7, 0.7]
    upload, computation = tables.tables(found)[3:5]
    assert heads(upload) == ["method", "262 B", "525 B", "1.05 kB", "2.1 kB", "4.2 kB"]
    assert texts(found, 3)[1] == ["legend", "0.500", "0.600", "0.700", "0.700", "0.700"]
    assert heads(computation)[-1] == "4 GFLOP"


def test_what_even_the_start_costs_more_than_is_a_dash(made_up):
    runs = [made_up("a", "full", 0, [0.6], before=900, up=100), made_up("b", "legend", 0, [0.6], before=0, up=1)]
    found = compared(runs)
    assert [at.mean for at in method(found, "a").at_equal_cost["bytes_up"]] == [None, None, None, None, 0.6]
    assert texts(found, 3)[0][1] == "–"


def test_runs_without_predictions_have_no_flops(made_up):
    runs = [made_up("a", "full", 0, [0.6]), made_up("b", "legend", 0, [0.6], flops=None)]
    found = compared(runs)
    assert (method(found, "a").flops, method(found, "b").flops) == (1e9, None)
    assert found.equal_cost["flops"] == ()
    assert [table.title.partition(":")[0] for table in tables.tables(found)][3:] == ["equal upload"]


def test_memory_is_told_against_the_references(made_up):
    """A method that needs as much as the reference must be told from one that needs less."""
    runs = [
        made_up("fed-hello-seed0", "fed-hello", 0, [0.6]),
        made_up("full-seed0", "full", 0, [0.6]),
        made_up("legend-seed0", "legend", 0, [0.6], peaks=(0.8e6, None)),
    ]
    cells = [row[6:] for row in texts(compared(runs), 1)]
    assert cells == [
        ["2 MB (1 block)", "5 MB (6 blocks)"],
        ["2 MB (1 block)", "5 MB (6 blocks)"],
        ["800 kB −60 % (1 block)", "– (6 blocks)"],
    ]


def test_learning_rates_of_their_own_are_part_of_the_methods(two_methods, made_up):
    runs, _ = collect(run_folders(two_methods[:2]))
    runs += collect([RunFolder(made_up("full-seed0", "full", 0, [0.7], "train.lr=0.02"))])[0]
    rates = {"fed-hello": TunedRate(2e-3, False, (0.5, 0.75, None)), "full": TunedRate(0.02, True, (0.5, None, 0.625))}
    found = compare(runs, tuning=Tuning(0, 3, (0.001, 2e-3, 0.02), rates)).summary
    assert found.only_methods_differ
    assert not any("train.lr" in note for note in found.notes)
    (edge,) = [note for note in found.notes if "edge" in note]
    assert edge.startswith("the learning rate of full, 0.02, is at the edge")
    assert not compare(runs).summary.only_methods_differ
    assert (method(found, "full").lr, method(found, "fed-hello").lr) == (0.02, 2e-3)
    assert heads(tables.tables(found)[-1]) == ["method", "chosen", "0.001", "0.002", "0.02"]
    assert texts(found, -1)[1] == ["full", "0.02", "0.500", "–", "0.625"]


def test_verdicts_of_several_methods_are_adjusted_and_the_tables_say_so(two_methods, made_up):
    assert not any("Holm" in sentence for sentence in tables.sentences(compared(two_methods)))
    two_methods += [made_up(f"rgd-hla-seed{s}", "rgd-hla", s, [a]) for s, a in ((0, 0.1), (1, 0.2001))]
    found = compared(two_methods)
    difference = found.differences["rgd-hla"]
    assert difference.verdict == "worse"
    assert difference.p_adjusted == pytest.approx(2 * difference.p)
    (row,) = (row for row in texts(found, 0) if row[0] == "rgd-hla")
    assert row[-2:] == [f"{difference.p_adjusted:.2g}", "worse"]
    assert any("adjusted for 2 methods against one reference (Holm)" in s for s in tables.sentences(found))
