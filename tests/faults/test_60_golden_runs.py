"""Run folders that version 0.1.0 wrote still load, evaluate, export, and go on where they stopped.

``tests/golden/run-0.1`` holds a model of three blocks, its data, a finished run, one that was interrupted after the
first of three rounds, and one whose clients keep their own heads; ``made-with.py.txt`` made them with the code of
0.1.0, before its modules moved.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "golden" / "run-0.1"


@pytest.fixture
def golden(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "place"))


def test_a_finished_run_evaluates_to_what_it_said(golden, call):
    code, out, err = call(golden, "evaluate", "finished", "--json")
    assert code == 0, err
    said = json.loads((golden / "finished" / "summary.json").read_text())
    # Of 16 samples, one that lies on the border may fall on either side of it on another CPU.
    assert json.loads(out)["test"]["accuracy"] == pytest.approx(said["final"], abs=1 / 16)


def test_heads_of_clients_are_still_theirs(golden, call):
    code, out, err = call(golden, "predict", "heads", "apple number 3", "--client", "1", "--json")
    assert code == 0, err
    assert json.loads(out)


def test_it_exports_the_adapter_that_it_has(golden, call):
    code, _, err = call(golden, "export", "finished", "--out", "out")
    assert code == 0, err
    new, old = (load_file(golden / folder / "adapter_model.safetensors") for folder in ("out", "finished/adapter"))
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_an_interrupted_run_goes_on_to_the_adapter_of_the_finished_one(golden, call):
    code, _, err = call(golden, "resume", "half", "--quiet")
    assert code == 0, err
    new, old = (load_file(golden / run / "adapter" / "adapter_model.safetensors") for run in ("half", "finished"))
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in old)
    assert len((golden / "half" / "rounds.jsonl").read_text().splitlines()) == 3
