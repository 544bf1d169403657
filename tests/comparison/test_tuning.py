import json
import sys

import pytest

from fedhello.comparison.tuning import asked_rates, chosen_rate
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError
from fedhello.results.compared import TunedRate
from fedhello.runs.folder import RunFolder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tuning_chooses_by_validation_and_every_seed_runs_at_the_chosen_rate(workplace, call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # pictures take the most time here
    words = ["--methods", "fed-hello", "--seeds", "0", "--out", tmp_path / "cmp", "--no-baselines", "--json", "--tune"]
    grid = "1e-4,1e-3,1e-2,2e-2,1e-1"
    asked = ["compare", "tiny.yaml", *words, "--rates", grid, "train.rounds=3"]
    code, out, err = call(workplace, *asked)
    assert code == 0, err
    found = json.loads(out)
    runs = {path.name: RunFolder(path) for path in (tmp_path / "cmp" / "tuning").iterdir()}
    assert set(runs) == {f"fed-hello-lr{rate}" for rate in ("0.0001", "0.001", "0.01", "0.02", "0.1")}
    worth = {}
    for run in runs.values():
        config = stored_config(run.path)
        assert config.train.rounds == 2
        worth[config.train.lr] = sum(record.validation.accuracy for record in run.rounds()) / 2
    best = min(rate for rate in worth if worth[rate] == max(worth.values()))
    tuning = found["tuning"]
    assert (tuning["rates"], tuning["rounds"], tuning["seed"]) == (sorted(worth), 2, 0)
    assert tuning["methods"]["fed-hello"]["validation"] == [pytest.approx(worth[rate]) for rate in sorted(worth)]
    assert tuning["methods"]["fed-hello"]["rate"] == found["methods"][0]["lr"] == best
    assert stored_config(tmp_path / "cmp" / "runs" / "fed-hello-seed0").train.lr == best
    before = content(tmp_path / "cmp" / "tuning")
    assert json.loads(call(workplace, *asked)[1]) == found
    assert content(tmp_path / "cmp" / "tuning") == before
    assert json.loads(call(workplace, "report", tmp_path / "cmp", "--json")[1])["tuning"] == tuning


def test_the_lowest_of_equally_good_rates_is_chosen_and_edges_are_told():
    assert chosen_rate("full", {1.0: 0.5, 2.0: 0.7, 3.0: 0.7}) == TunedRate(2.0, False, (0.5, 0.7, 0.7))
    assert chosen_rate("full", {1.0: None, 2.0: None, 3.0: 0.1}) == TunedRate(3.0, True, (None, None, 0.1))
    with pytest.raises(ConfigError, match="a learning rate among rates at which full trains"):
        chosen_rate("full", {1.0: None, 2.0: None})


@pytest.mark.parametrize("text", ["1e-3,2e-3,3e-3,4e-3", "1,1,1,1,1,2", "0,1,2,3,4", "a,1,2,3,4", "nan,1,2,3,4", ""])
def test_a_grid_has_at_least_five_rates(text):
    with pytest.raises(ConfigError, match="expected rates to be at least 5 different learning rates"):
        asked_rates(text)
