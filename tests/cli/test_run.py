"""Commands that start, continue, plan and compare runs."""

import json

import pytest

import fedhello as fh


def test_json_prints_the_summary_alone(place, call):
    code, out, err = call(place, "run", "tiny.yaml", "train.rounds=1", "--json")
    assert code == 0, err
    assert json.loads(out)["rounds"] == 1
    assert (place / "runs" / "fed-hello-seed0" / "report.html").read_text().count('<figure id="curve"') == 1


def test_plan_and_dry_run_train_and_write_nothing(call, tmp_path):
    code, out, err = call(tmp_path, "plan", "--json", "train.measure_memory=false")
    assert code == 0, err
    plan = json.loads(out)
    assert [tier["blocks"] for tier in plan["tiers"]] == [[2, 2], [4, 4], [6, 6]]
    assert sum(plan["tiers"][0]["frequency"]) == pytest.approx(2)
    assert plan["tiers"][2]["frequency"] == [1.0] * 6
    assert len(plan["clients"]) == 20
    assert plan["server"] == {"validation": 210, "test": 419, "proxy": 100}
    code, out, err = call(tmp_path, "run", "--dry-run", "train.measure_memory=false")
    assert code == 0, err
    assert "business" in out
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_finished_has_nothing_to_go_on_with(place, call):
    assert call(place, "run", "tiny.yaml", "--quiet", "run.name=done") == (0, "", "")
    code, out, _ = call(place, "resume", "runs/done")
    assert (code, out) == (0, "runs/done has finished all its rounds; there is nothing to resume\n")
    code, out, _ = call(place, "resume", "runs/done", "--json")
    assert (code, json.loads(out)) == (0, json.loads((place / "runs" / "done" / "summary.json").read_text()))
    assert call(place, "resume", "runs/done", "--quiet") == (0, "", "")


def test_a_plan_is_one_whatever_carries_it_out(place, call):
    code, out, err = call(place, "plan", "tiny.yaml", "run.engine=flower", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == fh.plan(fh.prepare("tiny.yaml")).to_dict()
    code, _, err = call(place, "run", "tiny.yaml", "run.engine=flower")
    assert (code, "expected run.engine: local" in err) == (2, True)


def test_a_dry_run_without_a_network_says_what_was_not_looked_at(place, call):
    words = ("run", "tiny.yaml", "model.name=no/such-model", "--dry-run")
    code, out, _ = call(place, *words)
    assert code == 0
    assert out.splitlines()[:2] == [
        "loading the model, the data and the clients …",
        "the configuration is valid: fed-hello, 2 rounds",
    ]
    assert "not checked, since it must be downloaded" in out
    assert json.loads(call(place, *words, "--json")[1])["checked"] == "configuration"
