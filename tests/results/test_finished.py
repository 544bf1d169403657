"""A finished run read back: its curve by rounds and costs, and what it had reached at equal cost."""

import doctest
import json

import pytest

from fedhello.errors import RunFolderError
from fedhello.report import tables
from fedhello.results import finished
from fedhello.results.comparison import compare, describe
from fedhello.results.finished import read_run
from fedhello.runs.folder import RunFolder


def described(folders, **how):
    return describe(compare([read_run(RunFolder(folder)) for folder in folders], **how))


def method(found, label):
    return next(entry for entry in found["methods"] if entry["method"] == label)


def test_the_examples_hold():
    assert doctest.testmod(finished).failed == 0


def test_bytes_of_replies_that_do_not_count_belong_to_their_round(made_up):
    folder = made_up("a", "full", 0, [0.6, 0.7])
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1]["rejections"] = [{"client": 1, "bytes_up": 50, "bytes_down": 70}]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = read_run(RunFolder(folder)).curve
    assert curve.bytes_up == (150, 1150, 2200)  # the summary has 2200: 150 of it before the first round


def test_rounds_that_were_not_scored_are_no_points_of_the_curve(made_up):
    folder = made_up("a", "full", 0, [0.6, 0.7, 0.8], "train.evaluate_every=2", "train.rounds=3")
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[0]["test"] = lines[0]["validation"] = None
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = read_run(RunFolder(folder)).curve
    assert (curve.rounds, curve.accuracy, curve.bytes_up) == ((0, 2, 3), (0.5, 0.7, 0.8), (200, 2200, 3200))
    row = described([folder], target=0.55)["runs"][0]
    assert (row["rounds_to_target"], row["bytes_up_to_target"]) == (2, 2200)


def test_fewer_rounds_than_the_summary_says_is_refused(made_up):
    folder = made_up("x", "fed-hello", 0, [0.5, 0.6])
    (folder / "rounds.jsonl").write_text("")
    with pytest.raises(RunFolderError, match=r"expected the 2 rounds of the summary"):
        read_run(RunFolder(folder))


def test_accuracies_at_equal_upload_are_those_of_the_last_state_that_cost_no_more(made_up):
    """The ladder's top is what the most expensive run takes: 200 + 4 · 1000 = 4200."""
    runs = [
        made_up("full-seed0", "full", 0, [0.6, 0.7, 0.8, 0.75], flops=1e9),
        made_up("legend-seed0", "legend", 0, [0.55, 0.65, 0.6, 0.7], up=100, flops=5e8),
    ]
    found = described(runs)
    assert found["equal_cost"]["bytes_up"] == [262, 525, 1050, 2100, 4200]
    by_upload = {
        entry["method"]: [at["mean"] for at in entry["at_equal_cost"]["bytes_up"]] for entry in found["methods"]
    }
    assert by_upload["full"] == [0.5, 0.5, 0.5, 0.6, 0.75]  # 200, 1200, 2200, 3200, 4200
    assert by_upload["legend"] == [0.5, 0.6, 0.7, 0.7, 0.7]  # 200, 300, 400, 500, 600
    by_flops = {entry["method"]: [at["mean"] for at in entry["at_equal_cost"]["flops"]] for entry in found["methods"]}
    assert by_flops["full"] == [0.5, 0.5, 0.6, 0.7, 0.75]
    assert by_flops["legend"] == [0.5, 0.55, 0.65, 0.7, 0.7]
    upload, computation = tables.tables(found)[3:5]
    assert upload.columns == ("method", "262 B", "525 B", "1.05 kB", "2.1 kB", "4.2 kB")
    assert upload.rows[1] == ("legend", "0.500", "0.600", "0.700", "0.700", "0.700")
    assert computation.columns[-1] == "4 GFLOP"


def test_what_even_the_start_costs_more_than_is_a_dash(made_up):
    runs = [made_up("a", "full", 0, [0.6], before=900, up=100), made_up("b", "legend", 0, [0.6], before=0, up=1)]
    found = described(runs)
    assert [at["mean"] for at in method(found, "a")["at_equal_cost"]["bytes_up"]] == [None, None, None, None, 0.6]
    assert tables.tables(found)[3].rows[0][1] == "–"


def test_runs_without_predictions_have_no_flops(made_up):
    runs = [made_up("a", "full", 0, [0.6]), made_up("b", "legend", 0, [0.6], flops=None)]
    found = described(runs)
    assert (method(found, "a")["flops"], method(found, "b")["flops"]) == (1e9, None)
    assert found["equal_cost"]["flops"] == []
    assert [table.title.partition(":")[0] for table in tables.tables(found)][3:] == ["equal upload"]
