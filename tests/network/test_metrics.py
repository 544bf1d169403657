import importlib
import json
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fedhello.errors import ConfigError, EngineError, MissingExtraError
from fedhello.network.metrics import monitored
from fedhello.network.processes import free_port

PLACE = Path("runs") / "net"


def asked(port, path, host="127.0.0.1"):
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def port():
    pytest.importorskip("prometheus_client", reason="needs the extra flower")
    return free_port()


def test_health_and_figures_are_served_as_long_as_the_context_lasts(port):
    with monitored(f"127.0.0.1:{port}", PLACE) as (monitor,):
        status, kind, text = asked(port, "/healthz")
        assert (status, kind, json.loads(text)["phase"]) == (200, "application/json", "loading")
        monitor._figures.failure = "round 3 failed: nobody came"
        status, _, text = asked(port, "/healthz")
        assert (status, json.loads(text)["reason"]) == (503, "round 3 failed: nobody came")
        status, kind, text = asked(port, "/metrics")
        assert status == 200 and kind.startswith("text/plain")
        assert "fedhello_healthy 0.0" in text and "process_resident_memory_bytes" in text
        assert 'fedhello_info{run="net"' in text
        assert asked(port, "/")[0] == asked(port, "/../metrics")[0] == 404
    with pytest.raises(urllib.error.URLError):
        asked(port, "/healthz")


def test_a_client_that_says_nothing_or_nonsense_blocks_nobody(port, capfd):
    with monitored(f"127.0.0.1:{port}", PLACE), socket.create_connection(("127.0.0.1", port)):
        with socket.create_connection(("127.0.0.1", port)) as other:
            other.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert asked(port, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_what_is_wrong_is_said_before_anything_else(port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(EngineError, match=r"expected to serve metrics at 127\.0\.0\.1"),
            monitored(f"127.0.0.1:{taken.getsockname()[1]}", PLACE),
        ):
            raise AssertionError
    with (
        pytest.raises(ConfigError, match=r"expected the address for metrics \(--metrics\) as HOST:PORT"),
        monitored("9464", PLACE),
    ):
        raise AssertionError
    with monitored(None, PLACE) as monitors:
        assert monitors == []


def test_without_the_extra_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "fedhello.network.monitor", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[flower\]'"), monitored("127.0.0.1:1", PLACE):
        raise AssertionError
    importlib.invalidate_caches()
