"""What a server finds of a run that it takes up again."""

import json
from types import SimpleNamespace

import pytest

from fedhello.config.load import dump_config, load_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.network.resumed import checked
from fedhello.runs.folder import RunFolder
from fedhello.runs.going_on import changes_of
from fedhello.runs.summary import KeyChange, Summary
from fedhello.session import RunSettings
from fedhello.state import RunState
from fedhello.types import Adapter

ENDED = Summary(
    status="finished", method="fed-hello", seed=0, rounds=4, metric="", start=0.1, final=0.2, mean_last_5=0.2,
    best_on_validation=0.2, bytes_up=1, bytes_down=1, wall_seconds=1.0, train_seconds=1.0, tiers=(),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    config = load_config(None, ["train.rounds=4", "train.lr=5e-3"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "clients.json").write_text("[]")
    (tmp_path / "summary.json").write_text(json.dumps(ENDED.to_dict()))
    return RunFolder(tmp_path)


def test_a_new_run_is_as_it_is_asked_for(tmp_path):
    assert checked(RunFolder(tmp_path), load_config()) == (load_config(), None)


def test_a_finished_run_is_refused_unless_rounds_are_added(folder):
    with pytest.raises(RunFolderError, match=r"Give another run\.name, or a larger number of train\.rounds"):
        checked(folder, load_config(None, ["train.rounds=4"]))
    with pytest.raises(ConfigError, match=r"expected more than the 4 rounds"):
        checked(folder, load_config(None, ["train.rounds=3"]))
    config, lr = checked(folder, load_config(None, ["train.rounds=6"]))
    assert (config.train.rounds, lr) == (6, 5e-3), "auto is the rate that the run started with"


def test_another_learning_rate_is_beside_the_configuration(folder):
    config, lr = checked(folder, load_config(None, ["train.rounds=6", "train.lr=1e-3"]))
    assert (config.train.lr, lr) == (5e-3, 1e-3)


def test_the_first_learning_rate_can_be_given_again(folder):
    changed = RunState(4, Adapter({}, {}), lr=1e-3)
    settings = SimpleNamespace(lr=5e-3)
    session = SimpleNamespace(settings=RunSettings(0, rounds=6), engine=SimpleNamespace(settings=settings))
    _, lr = checked(folder, load_config(None, ["train.rounds=6", "train.lr=5e-3"]))
    state, changes = changes_of(session, {"train": {"rounds": 6}}, changed, lr)
    assert (state.lr, changes) == (None, [KeyChange("train.lr", 4, 1e-3, 5e-3)])
    assert changes_of(session, {"train": {"rounds": 6}}, state, lr) == (state, []), "started again, it says nothing"
