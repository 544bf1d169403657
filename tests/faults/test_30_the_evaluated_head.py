"""Case 30: the head that is saved is the head that was evaluated."""

import json

import pytest


@pytest.mark.parametrize("head", ["aggregate", "local"])
def test_a_run_read_back_scores_as_it_did(workplace, call, head):
    words = [f"run.name=head-{head}", f"model.head={head}"]
    code, _, err = call(workplace, "run", "tiny.yaml", "--quiet", *words)
    assert code == 0, err
    folder = workplace / "runs" / f"head-{head}"
    summary = json.loads((folder / "summary.json").read_text())
    code, out, err = call(workplace, "evaluate", folder, "--json")
    assert code == 0, err
    found = json.loads(out)["test"]
    assert found["accuracy"] == summary["final"]
    assert found["loss"] == pytest.approx(summary["final_scores"]["loss"], rel=1e-6)
    assert (folder / "heads").is_dir() == (head == "local")
