import pytest

from fedhello.errors import DataError
from fedhello.network import client


def test_the_last_words_of_a_worker_are_read_beside_its_secret(tmp_path):
    secret = tmp_path / "secret"
    assert client.said_by(secret) == ""
    client._last_words(secret).write_text("expected data; found none")
    assert client.said_by(secret) == "expected data; found none"


def test_a_restarted_worker_knows_the_data_with_which_its_client_joined(tmp_path):
    config = {"data": {"deduplicate": True}, "run": {"seed": 0}}
    for _ in range(2):
        client.check_kept(tmp_path, config, "digest")
    with pytest.raises(DataError, match=r"expected the data with which this client joined.*start it again"):
        client.check_kept(tmp_path, config, "other")
    client.check_kept(tmp_path, {"data": {"deduplicate": False}}, "other")  # other samples, since the server asks so
    client.check_kept(tmp_path, config, "digest")
