import json

import pytest
from comparisons import compared

from fedhello.errors import RunFolderError
from fedhello.results.finished import read_run
from fedhello.runs.folder import RunFolder


def test_bytes_of_replies_that_do_not_count_belong_to_their_round(made_up):
    folder = made_up("a", "full", 0, [0.6, 0.7])
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1]["rejections"] = [{"client": 1, "round": 1, "reason": "late", "bytes_up": 50, "bytes_down": 70}]
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
    cost = compared([folder], target=0.55).runs[0].to_target
    assert (cost.rounds, cost.bytes_up) == (2, 2200)


def test_fewer_rounds_than_the_summary_says_is_refused(made_up):
    folder = made_up("x", "fed-hello", 0, [0.5, 0.6])
    (folder / "rounds.jsonl").write_text("")
    with pytest.raises(RunFolderError, match=r"expected the 2 rounds of the summary"):
        read_run(RunFolder(folder))
