from fedhello.network import client


def test_the_last_words_of_a_worker_are_read_beside_its_secret(tmp_path):
    secret = tmp_path / "secret"
    assert client.said_by(secret) == ""
    client._last_words(secret).write_text("expected data; found none")
    assert client.said_by(secret) == "expected data; found none"
