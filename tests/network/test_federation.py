"""The library's doors to federations on many machines, without a socket."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import fedhello as fh
from fedhello.network import federation, supervisor
from fedhello.network.options import ClientOptions
from fedhello.network.supervisor import Connection, _Supervisor

pytest.importorskip("flwr")


def test_a_server_is_given_what_the_configuration_and_the_caller_say(place, monkeypatch):
    given = []

    def play(config, options, callbacks, say, ready, accept_data):
        given.append((config, options, callbacks(SimpleNamespace(path=place))))
        say("listening")
        return SimpleNamespace(path=place / "runs" / "net"), {}

    monkeypatch.setattr(federation.server, "serve", play)
    watching = fh.Callback()
    found = fh.serve("tiny.yaml", {"train.rounds": 3}, port=9, callbacks=[watching])
    assert found.path == place / "runs" / "net"
    ((config, options, callbacks),) = given
    assert (config.run.engine, config.train.rounds, options.port) == ("flower", 3, 9)
    assert callbacks[-1] is watching
    assert [type(one).__name__ for one in callbacks[:-1]] == ["Progress", "PlanFile"]
    assert federation.served_folder("tiny.yaml", {"run.name": "net"}, None) == Path("runs/net")
    assert federation.served_folder(None, {}, 2).name == "fed-hello-seed0-flower"
    with pytest.raises(fh.ConfigError, match=r"expected local \(--local\) to be at least 1"):
        fh.serve("tiny.yaml", local=0)


def test_what_is_said_without_a_console_is_logged(place, monkeypatch, caplog, capsys):
    monkeypatch.setattr(federation, "take_part", lambda connection, options, say, log: say("joined"))
    with caplog.at_level("INFO", logger="fedhello"):
        fh.join("h:1", "texts.csv", budget={"upload": "1MB", "seconds": 5})
    assert caplog.messages == ["joined"]
    assert capsys.readouterr() == ("", "")
    with pytest.raises(fh.ConfigError, match=r"expected a budget of memory, .*; found 'ram'"):
        fh.join("h:1", "texts.csv", budget={"ram": "1GB"})


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"memory": -1}, "budget.memory: .*greater than or equal to 1 .found -1."),
        ({"memory": 4e9}, "budget.memory: .*integer"),
        ({"seconds": float("nan")}, "budget.seconds: .*finite"),
        ({"rank": 0, "blocks": True}, "budget.blocks: .*1 more problem"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_before_anything_starts(budget, said, monkeypatch):
    monkeypatch.setattr(federation, "take_part", lambda *_: pytest.fail("it has started"))
    with pytest.raises(fh.ConfigError, match=said):
        fh.join("h:1", "texts.csv", budget=budget)


def test_the_command_refuses_such_a_budget_in_one_line(tmp_path, call):
    code, _, err = call(tmp_path, "client", "--server", "h:1", "--data", "texts.csv", "--seconds", "-5")
    assert (code, err) == (2, "error: budget.seconds: input should be greater than 0 (found -5.0)\n")


def test_why_a_client_cannot_take_part_is_the_error_that_its_process_ended_with(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "WAIT_TO_SEND", 0.0)
    watcher = _Supervisor(Connection("h", 1), ClientOptions("a", "x.csv"), [].append, tmp_path, tmp_path / "log")
    ended = SimpleNamespace(poll=lambda: fh.DataError.exit_code, returncode=fh.DataError.exit_code)
    watcher._worker = ended
    with pytest.raises(fh.DataError, match="the training process ended with code 3"):
        watcher._over()
    (tmp_path / "failure").write_text("expected a file; x.csv is none")
    watcher._worker = ended
    with pytest.raises(fh.DataError, match=r"^expected a file; x\.csv is none$"):
        watcher._over()


def test_keys_are_made_as_the_command_makes_them(tmp_path):
    files = fh.make_server_keys(["localhost"], tmp_path / "keys", days=2)
    assert [file.name for file in files] == ["ca.crt", "ca.key", "server.pem", "server.key"]
    assert [file.name for file in fh.make_client_key("berlin", tmp_path / "keys")] == ["berlin", "berlin.pub"]
