"""Case 53: what is private in keys and certificates is in the private files, and nowhere else."""

import stat

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from fedhello.cli import main as cli


def secrets_of(path):
    """Return whatever would give a private key away: the lines of its file, and its number in hex and decimal."""
    content = path.read_bytes()
    key = load_ssh_private_key(content, None) if b"OPENSSH" in content else load_pem_private_key(content, None)
    number = key.private_numbers().private_value
    lines = [line for line in content.decode().splitlines() if line]
    return [*lines, f"{number:x}", f"{number:X}", str(number)]


@pytest.fixture
def keys(tmp_path, monkeypatch, capfd, caplog):
    """Make a server's and a client's keys by the command line, twice, the second time in vain."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(0)
    for words in (["server", "--host", "localhost"], ["client", "node"]):
        for code in (0, 5):
            monkeypatch.setattr("sys.argv", ["fedhello", "keys", *words, "--out", "keys"])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code == code
    captured = capfd.readouterr()
    return tmp_path / "keys", captured.out + captured.err + caplog.text


def test_neither_output_nor_log_nor_a_public_file_holds_a_secret(keys):
    folder, said = keys
    private = {path for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o600}
    assert {path.name for path in private} == {"ca.key", "server.key", "node"}
    public = {path.name: path.read_text() for path in set(folder.iterdir()) - private}
    assert "keys/node" in said
    for path in private:
        for secret in secrets_of(path):
            assert secret not in said, path.name
            assert all(secret not in content for content in public.values()), path.name


def test_the_search_finds_a_secret_that_is_there(keys):
    folder, _ = keys
    leaked = "DEBUG " + (folder / "node").read_text().replace("\n", " ")
    assert any(secret in leaked for secret in secrets_of(folder / "node"))
