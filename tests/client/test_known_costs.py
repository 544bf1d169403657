"""Calibrations on disk: the same costs, of the same model and settings only."""

import json
import os
import subprocess
import sys

import pytest
from torch import nn

from fedhello.client import known_costs as module
from fedhello.client.calibration import calibrate
from fedhello.client.known_costs import known_costs
from fedhello.data import cache

HOW = (False, ("compress", "keep", "recompute"), None, True)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(module, "LEAST", 0.0)
    return tmp_path / "costs"


def counting(model, made, how=HOW):
    return known_costs(model, how, lambda: made.append(1) or calibrate(model, *how))


def test_what_was_calibrated_once_is_read_again_with_every_value(tiny_model, place):
    made, model = [], tiny_model(blocks=4)
    measured = counting(model, made)
    assert measured.single is not None
    assert counting(tiny_model(blocks=4, seed=3), made) == measured
    assert len(made) == len(list(place.iterdir())) == 1
    assert counting(model, made).at((3, 7), [(3, 7)]) == measured.at((3, 7), [(3, 7)])


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"saved": 3}', "\0"])
def test_a_damaged_file_is_measured_again_and_replaced(content, tiny_model, place):
    made, model = [], tiny_model()
    how = (False, ("keep",), None, True)
    measured = counting(model, made, how)
    (path,) = place.iterdir()
    path.write_text(content)
    assert counting(model, made, how) == measured
    assert len(made) == 2
    assert json.loads(path.read_text())["head_bytes"] == measured.head_bytes


def test_another_structure_setting_number_of_threads_or_source_is_another_calibration(tiny_model, monkeypatch):
    made, how = [], (False, ("keep",), None, True)
    model = tiny_model()
    counting(model, made, how)
    others = [tiny_model(blocks=2), tiny_model(width=16), tiny_model(dropout=0.1), tiny_model(attention="eager")]
    for other in others:
        counting(other, made, how)
    for changed in ((True, *how[1:]), (*how[:3], False), (False, ("keep", "recompute"), None, True)):
        counting(model, made, changed)
    model.frozen_dropout = False
    counting(model, made, how)
    model.frozen_dropout = True
    monkeypatch.setattr(module, "_source", lambda: "another")
    counting(model, made, how)
    assert len(made) == 1 + len(others) + 5


def test_nothing_is_kept_of_modules_of_the_user_of_quick_ones_and_without_a_folder(tiny_model, place, monkeypatch):
    made, how = [], (False, ("keep",), None, True)

    class Mine(nn.Module):
        pass

    own = tiny_model()
    own.module.mine = Mine()
    quick = tiny_model()
    for model, least, where in ((own, 0.0, str(place)), (quick, 1e9, str(place)), (quick, 0.0, "")):
        monkeypatch.setattr(module, "LEAST", least)
        monkeypatch.setenv(cache.VARIABLE, where)
        for _ in range(2):
            counting(model, made, how)
    assert len(made) == 6
    assert not place.exists()


def test_a_folder_that_cannot_be_written_changes_nothing(tiny_model, place):
    place.write_text("a file")
    made, how = [], (False, ("keep",), None, True)
    counting(tiny_model(), made, how)
    counting(tiny_model(), made, how)
    assert len(made) == 2


def test_the_key_is_the_same_in_another_process(workplace):
    code = (
        "import fedhello as fh\nfrom fedhello.client.known_costs import _path\n"
        "model = fh.prepare('tiny.yaml', {'train.measure_memory': False}).model\n"
        "assert len(model.passed_over) > 1\nprint(_path(model, (False, ('keep',), None, True)).name)"
    )
    names = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed}, cwd=workplace, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert names[0] == names[1]
