"""Case 53 with real processes: TLS and node keys: who has none, or a wrong one, or speaks plain text, is not let in."""

import json
import shutil

import pytest
from machines import CONFIG, Machines

from fedhello.errors import EngineError

pytest.importorskip("flwr", reason="needs the extra flower")


@pytest.mark.slow
def test_only_clients_with_a_known_key_take_part_and_no_secret_is_said(workplace, tmp_path, call):
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    config = CONFIG.replace("clients: 3", "clients: 2").replace("clients_per_round: 3", "clients_per_round: 2")
    net = Machines(tmp_path / "place", config.replace("{share: 1/3, blocks: 3}", "{share: 1/3, blocks: 2}"))
    try:
        keys = net.folder / "keys"
        assert call(net.folder, "keys", "server", "--host", "127.0.0.1", "--out", "keys")[0] == 0
        for name in ("berlin", "madrid", "paris"):
            assert call(net.folder, "keys", "client", name, "--out", "keys")[0] == 0
        assert call(net.folder, "keys", "client", "stranger", "--out", "elsewhere")[0] == 0
        net.server("--keys", "keys")
        own = ("--blocks", 2, "--ca", "keys/ca.crt")
        net.client(0, *own, "--key", "keys/berlin")
        net.client(1, *own, "--key", "elsewhere/stranger", name="stranger")
        net.client(1, "--blocks", 2, name="plain")
        net.wait_for(lambda: "the connection ended" in net.said("stranger"), what="the stranger's refusal")
        net.client(1, *own, "--key", "keys/paris", "--name", "madrid", name="thief")
        net.wait_for(lambda: "which is 'paris'" in net.said("server"), what="the refusal of another's name")
        assert net.end("plain") == EngineError.exit_code
        assert "uses TLS" in net.said("plain")
        net.client(1, *own, "--key", "keys/madrid")
        assert net.end("server") == 0, net.all_said()
        took_part = [entry["facts"]["name"] for entry in json.loads((net.run / "clients.json").read_text())["clients"]]
        assert took_part == ["berlin", "madrid"]
        assert all(len(entry["clients"]) == 2 for entry in net.rounds())
        said = net.all_said() + "".join(file.read_text() for file in (net.folder / "runs").glob("*.log"))
        secrets = [(keys / name).read_text().split("\n")[1] for name in ("berlin", "madrid", "server.key", "ca.key")]
        assert not any(secret in said for secret in [*secrets, "PRIVATE KEY"])
    finally:
        net.close()
