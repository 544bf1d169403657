import time
from types import SimpleNamespace

import pytest

from fedhello.errors import ConfigError, EngineError
from fedhello.network.options import ClientOptions
from fedhello.network.supervisor import MOST_CRASHES, Connection, _Supervisor, parse_server


@pytest.mark.parametrize("text", ["", "host", "host:", ":8000", "host:0", "host:70000", "a:b:80", "http://host:80"])
def test_an_address_has_a_host_and_a_port(text):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_server(text)
    assert parse_server("h.example:8000") == ("h.example", 8000)
    assert parse_server("[::1]:8000") == ("::1", 8000)


def test_a_worker_that_ends_again_and_again_is_an_error(tmp_path):
    said = []
    watcher = _Supervisor(Connection("h", 1), ClientOptions("a", "x.csv"), said.append, tmp_path, tmp_path / "log")
    for _ in range(MOST_CRASHES):
        watcher._began = time.monotonic()
        watcher._count_crash("by signal SIGKILL")
    watcher._began = time.monotonic()
    with pytest.raises(EngineError, match="5 times"):
        watcher._count_crash("by signal SIGKILL")
    watcher._began = time.monotonic() - 1000  # it had trained for long
    watcher._count_crash("by signal SIGKILL")
    assert len(said) == MOST_CRASHES + 1
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_an_owner_is_told_at_once_what_happens(tmp_path, monkeypatch):
    said, answers = [], iter([False, False, True, True])
    watcher = _Supervisor(Connection("h", 1), ClientOptions("a", "x.csv"), said.append, tmp_path, tmp_path / "log")
    monkeypatch.setattr(Connection, "answers", lambda self: next(answers))
    monkeypatch.setattr(Connection, "check", lambda self: None)
    monkeypatch.setattr(
        "fedhello.network.supervisor.spawn", lambda *_, **__: SimpleNamespace(poll=lambda: 0, returncode=0)
    )
    monkeypatch.setattr("fedhello.network.supervisor.time.sleep", lambda seconds: None)
    watcher.watch()
    assert said == [
        "connecting to h:1 …",
        "nothing answers at h:1 yet; trying again for as long as --patience says",
        "h:1 answers; starting the process that trains …",
    ]
