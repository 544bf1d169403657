"""The processes of Flower: what they import, and how long they wait."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="needs the extra flower")

from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PushObjectRequest

from fedhello.network import flower_main
from fedhello.network.flower_pace import Pace


def test_a_supernode_waits_longer_than_flower_for_a_slow_link(monkeypatch):
    from flwr.supercore.protobuf.client import ProtobufClient
    from flwr.supercore.retry import http_retry
    from flwr.supernode import cli, fleet_http_client, start_client_internal

    monkeypatch.setitem(ProtobufClient.__init__.__kwdefaults__, "timeout", 30.0)
    monkeypatch.setattr(fleet_http_client, "HEARTBEAT_CALL_TIMEOUT", 5)
    monkeypatch.setattr(http_retry, "MAX_RETRY_DELAY", 20)
    monkeypatch.setattr(start_client_internal, "time", time)
    monkeypatch.setattr(flower_main, "end_with_parent", lambda: None)
    monkeypatch.setattr(flower_main, "show_notes", lambda: None)
    waits = []

    def supernode():
        client = fleet_http_client.FleetHttpClient.from_server_address("127.0.0.1:1", True, None, interceptors=[])
        monkeypatch.setattr(client._client, "build_request", lambda **named: waits.append(named["timeout"]))
        monkeypatch.setattr(
            client, "_send", lambda context: SimpleNamespace(raise_for_status=lambda: None, content=b"")
        )
        client.PushObject(PushObjectRequest())
        client.SendNodeHeartbeat(SendNodeHeartbeatRequest())
        client.close()

    monkeypatch.setattr(cli, "flower_supernode", supernode)
    monkeypatch.setattr("sys.argv", ["flower_main", "supernode"])
    flower_main.main()
    update, heartbeat = waits
    assert (update.read, update.write, update.connect) == (300, 300, 30)
    assert heartbeat == 20
    assert isinstance(start_client_internal.time, Pace)


def test_a_process_of_flower_loads_no_model():
    code = "import sys, fedhello.network.flower_main; from flwr.supernode.cli import flower_supernode; "
    code += (
        "from flwr.superlink.cli import flower_superlink; print({'torch', 'peft', 'transformers'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
