import pytest

from fedhello.errors import ConfigError
from fedhello.network.consent import parse_bytes
from fedhello.network.options import ClientOptions
from fedhello.network.superlink import ServerOptions
from fedhello.network.supervisor import Connection


def test_options_are_checked_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="expected data"):
        ClientOptions("a")
    with pytest.raises(ConfigError, match="expected the client's name"):
        ClientOptions("a b", "x.csv")
    with pytest.raises(ConfigError, match="expected bytes with a unit"):
        parse_bytes("four")
    assert parse_bytes("4GB") == 4 * 10**9
    with pytest.raises(ConfigError, match=r"expected ca \(--ca\) to name a file"):
        Connection("h", 1, ca=tmp_path / "ca.crt")
    (tmp_path / "key").touch()
    with pytest.raises(ConfigError, match=r"expected ca \(--ca\) with key"):
        Connection("h", 1, key=tmp_path / "key")
    with pytest.raises(ConfigError, match="fedhello keys server"):
        ServerOptions(keys=tmp_path)
    for name in ("ca.crt", "server.pem", "server.key"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="fedhello keys client"):
        ServerOptions(keys=tmp_path)


def test_the_server_listens_on_this_machine_alone_unless_told_otherwise():
    words = ServerOptions().superlink("secret")
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert ServerOptions(host="0.0.0.0").address.host == "127.0.0.1"
    assert "--memory" in ServerOptions().client_command()
