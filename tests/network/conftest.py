"""The folder that a server works in, and what it tells its clients."""

import json
import shutil

import pytest
from machines import CONFIG

from fedhello.network.server import _invitation
from fedhello.setup.prepare import load
from network import config_of


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    """A folder of one's own with the tiny model and data, which is the current one."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    (tmp_path / "place" / "net.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def told(place):
    """What a client is told of the run."""
    config = config_of(place)
    loaded = load(config)
    return json.loads(_invitation(loaded, "r")["config"]), list(loaded.data.label_names)


@pytest.fixture
def grid(monkeypatch):
    """Flower's nodes, all in this process."""
    pytest.importorskip("flwr", reason="needs the extra flower")
    from flower_grid import LocalGrid

    return LocalGrid(monkeypatch)
