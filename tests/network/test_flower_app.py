"""The apps of plain ``flwr run`` and ``flower-supernode``."""

from pathlib import Path
from types import SimpleNamespace

import pytest

app = pytest.importorskip("fedhello.network.flower_app", reason="needs the extra flower")

from flwr.app import ConfigRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata

from fedhello.network.flower import RECORD, fields_of


def message(kind, **fields):
    metadata = Metadata(1, "an-id", 1, 2, "", "", 0.0, 60.0, "train")
    return make_message(metadata, RecordDict({RECORD: ConfigRecord({"kind": kind, **fields})}))


@pytest.fixture
def heard(monkeypatch):
    """What each process's worker is asked, in order: a cold client has a new one for every message."""
    processes = []

    def cold_worker(node_config):
        asked = []
        processes.append((node_config, asked))

        def answer(kind, fields):
            asked.append((kind, dict(fields)))
            return {"said": kind}

        return SimpleNamespace(answer=answer)

    monkeypatch.setattr("fedhello.network.client.cold_worker", cold_worker)
    return processes


def test_a_cold_client_joins_anew_for_every_message_by_what_it_was_told(heard):
    context = SimpleNamespace(node_config={"name": "berlin"}, state=RecordDict())
    app._cold(message("join", run="r", probe=b"many bytes"), context)
    reply = app._cold(message("train", task=b"t"), context)
    assert fields_of(reply) == {"said": "train"}
    assert [node for node, _ in heard] == [{"name": "berlin"}] * 2
    assert heard[0][1] == [("join", {"run": "r", "probe": b"many bytes"})]
    assert heard[1][1] == [("join", {"run": "r"}), ("train", {"task": b"t"})], "the probe is not kept"


def test_the_server_plays_what_the_run_config_names(monkeypatch):
    played = []
    monkeypatch.setattr("fedhello.network.server.serve_on", lambda link, path, say: played.append((link, path.name)))
    monkeypatch.setattr(app, "GridLink", lambda grid: grid)
    app._serve("a grid", SimpleNamespace(run_config={"config": "folder/net.yaml"}))
    assert played == [("a grid", "net.yaml")]


def test_the_package_is_a_flower_app():
    from flwr.cli.config_utils import load_and_validate

    root = Path(__file__).parents[2] / "pyproject.toml"
    config, _ = load_and_validate(root, check_module=False)
    components = config["tool"]["flwr"]["app"]["components"]
    assert components == {
        "serverapp": "fedhello.network.flower_app:server_app", "clientapp": "fedhello.network.flower_app:client_app",
    }  # fmt: skip
