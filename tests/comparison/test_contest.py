import pytest
from rich.console import Console

from fedhello.comparison.asked import asked_methods
from fedhello.comparison.contest import Contest
from fedhello.config.load import load_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.runs.folder import RunFolder

GRID = (1e-4, 1e-3, 1e-2, 2e-2, 1e-1)


@pytest.mark.parametrize("rates", [(), GRID], ids=["one rate", "rates of their own"])
def test_what_is_wrong_is_found_before_anything_is_trained_or_written(rates, tmp_path):
    out = tmp_path / "cmp"
    with pytest.raises(ConfigError, match="gd-hla"):
        Contest(load_config(), asked_methods("gd-hla,gd-hla"), [0], out, rates).check()
    assert Contest(load_config(), asked_methods("gd-hla,fim-hla"), [0, 1], out, rates).check() == []
    assert not out.exists()


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path):
    contest = Contest(load_config(), asked_methods("gd-hla"), [0], tmp_path)
    with RunFolder(tmp_path).locked():
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(RunFolderError, match="nobody else to write"):
            contest.make(Console(quiet=True), quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_interrupted_search_for_rates_starts_no_run(tmp_path, monkeypatch):
    contest = Contest(load_config(), asked_methods("gd-hla"), [0], tmp_path / "cmp", GRID)
    tried = []
    monkeypatch.setattr("fedhello.comparison.tuning.make_tuning", lambda trials, *_: tried.extend(trials))
    monkeypatch.setattr("fedhello.comparison.contest.make_runs", lambda *_: pytest.fail("a run was started"))
    assert contest.make(Console(quiet=True), quiet=True) is None
    assert len(tried) == len(GRID)
