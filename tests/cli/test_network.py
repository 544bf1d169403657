"""Commands of federations on many machines."""

import importlib.util
import sys

import pytest

import fedhello as fh
from fedhello.network import federation


@pytest.mark.parametrize("words", [("server",), ("client", "--server", "h:1", "--data", "x.csv")])
def test_without_flower_the_command_says_how_to_install_it(call, tmp_path, monkeypatch, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "flwr" else find(name, *rest))
    code, out, err = call(tmp_path, *words)
    assert (code, out) == (6, "")
    assert err == "error: clients on other machines need Flower; run: pip install 'fedhello[flower]'\n"


def test_what_a_client_says_of_itself_reaches_the_connection(call, tmp_path, monkeypatch):
    pytest.importorskip("flwr")
    (tmp_path / "ca.crt").touch()
    taken = []
    monkeypatch.setattr(federation, "take_part", lambda *arguments: taken.append(arguments))
    code, _, err = call(
        tmp_path, "client", "--server", "[::1]:8000", "--data", "mine.csv", "--memory", "4GB", "--blocks", "2",
        "--name", "berlin", "--label", "topic", "--encoding", "cp1252", "--text", "p", "--text", "q", "--no-scores",
        "--download", "1MB", "--least-per-class", "3", "--models", "org/*",
        "--ca", "ca.crt", "--log", "flower.log",
    )  # fmt: skip
    assert (code, err) == (0, "")
    ((connection, options, _, log),) = taken
    assert (connection.host, connection.port, str(connection.ca), connection.key) == ("::1", 8000, "ca.crt", None)
    assert (options.name, options.data, options.encoding) == ("berlin", "mine.csv", "cp1252")
    consent = fh.Consent(
        columns={"text": ["p", "q"], "label": "topic"}, budget={"memory": "4GB", "blocks": 2}, scores=False,
        download=10**6, least_per_class=3, models=["org/*"],
    )  # fmt: skip
    assert options.consent == consent
    assert str(log) == "flower.log"
    assert call(tmp_path, "client", "--server", "nowhere", "--data", "x.csv")[0] == fh.ConfigError.exit_code


def test_the_command_line_makes_both_and_says_what_to_do_next(call, tmp_path):
    code, out, err = call(tmp_path, "keys", "server", "--host", "::1", "--host", "fl.example.org", "--out", "keys")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "wrote keys/ca.crt, keys/ca.key, keys/server.pem, keys/server.key"
    assert "--server [::1]:8000 --ca ca.crt" in out
    code, out, err = call(tmp_path, "keys", "client", "node", "--out", "keys")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "wrote keys/node, keys/node.pub"
    assert call(tmp_path, "keys", "client", "node", "--out", "keys")[0] == fh.RunFolderError.exit_code
    assert call(tmp_path, "keys", "server", "--host", "a:1", "--out", "keys")[0] == fh.ConfigError.exit_code


def test_without_the_extra_the_command_says_how_to_install_it(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "fedhello.network.keys")
    code, _, err = call(tmp_path, "keys", "client", "node", "--out", "keys")
    assert (code, err) == (6, "error: keys need cryptography; run: pip install 'fedhello[flower]'\n")
