import sys

from fedhello.errors import ConfigError, RunFolderError


def test_the_command_line_makes_both_and_says_what_to_do_next(call, tmp_path):
    code, out, err = call(tmp_path, "keys", "server", "--host", "::1", "--host", "fl.example.org", "--out", "keys")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "wrote keys/ca.crt, keys/ca.key, keys/server.pem, keys/server.key"
    assert "--server [::1]:8000 --ca ca.crt" in out
    code, out, err = call(tmp_path, "keys", "client", "node", "--out", "keys")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "wrote keys/node, keys/node.pub"
    assert call(tmp_path, "keys", "client", "node", "--out", "keys")[0] == RunFolderError.exit_code
    assert call(tmp_path, "keys", "server", "--host", "a:1", "--out", "keys")[0] == ConfigError.exit_code


def test_without_the_extra_the_command_says_how_to_install_it(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "fedhello.network.keys")
    code, _, err = call(tmp_path, "keys", "client", "node", "--out", "keys")
    assert (code, err) == (6, "error: keys need cryptography; run: pip install 'fedhello[flower]'\n")
