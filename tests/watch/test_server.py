"""The page's server gives nothing away, takes nothing in, and cannot be held up."""

import http.client
import socket
import time
from urllib.parse import urlsplit

import pytest

from fedhello.errors import ConfigError, RunFolderError
from fedhello.watch import server as module
from fedhello.watch.follower import Follower
from fedhello.watch.server import MOST, listening, policy
from fedhello.watch.serving import serving


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A server of a run whose page is a few words."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(Follower, "html", lambda self: "<p>whole</p>")
    monkeypatch.setattr(Follower, "main", lambda self: "<p>inner</p>")
    monkeypatch.setattr("fedhello.report.html.page_scripts", lambda: ("one()",))
    with serving(tmp_path / "mine") as server:
        yield server


def ask(server, path=None, method="GET", **headers):
    """Return status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    if path is None:
        path = f"/?token={server.token}"
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read().decode()
    connection.close()
    return found


def raw(server, content):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as connection:
        connection.sendall(content)
        found = b""
        while more := connection.recv(65536):
            found += more
    return found.decode()


def test_with_the_token_there_is_a_page_its_content_and_nothing_else(page):
    assert urlsplit(page.url).hostname == "127.0.0.1" and len(page.token) >= 43
    status, headers, text = ask(page)
    assert (status, text) == (200, "<p>whole</p>")
    assert ask(page, f"/main?token={page.token}")[::2] == (200, "<p>inner</p>")
    assert ask(page, f"/?token={page.token}", "HEAD")[::2] == (200, "")
    assert headers["Content-Security-Policy"] == policy(["one()"])
    # echo -n 'one()' | openssl dgst -sha256 -binary | base64
    assert "script-src 'sha256-HR7iaask9daLMRRskMI++QeJtjWDOjyPA6lGzYGzKW4=';" in headers["Content-Security-Policy"]
    assert {
        "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
    }.items() <= dict(headers).items()  # fmt: skip
    assert headers["Server"] == "fedhello"
    for path in (
        "/secret",
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "//etc/passwd",
        "/main/",
        "/events/x",
        "/.status.json",
    ):
        assert ask(page, f"{path}?token={page.token}")[0] == 404


@pytest.mark.parametrize("query", ["", "?token=", "?token=x", "?token=é", "?t=1&" * 20, "?token=%ff%fe"])
def test_without_the_token_there_is_nothing(page, query):
    for path in ("/", "/main", "/events", "/secret"):
        status, headers, text = ask(page, f"{path}{query.encode('ascii', 'ignore').decode()}")
        assert (status, "inner" in text, "whole" in text) == (403, False, False)
        assert page.token not in f"{headers}{text}"
    half = page.token[:-1]
    assert ask(page, f"/?token={half}")[0] == 403
    assert ask(page, f"/?token=x&token={page.token}")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""]
)
def test_another_name_of_this_machine_is_refused(page, host):
    status, _, text = ask(page, Host=host.format(port=page.server_port))
    assert (status, "whole" in text) == (421, False)
    assert ask(page, Host=f"localhost:{page.server_port}")[0] == 200


def test_no_host_or_two_are_refused(page):
    line = f"GET /?token={page.token} HTTP/1.0\r\n"
    assert " 421 " in raw(page, f"{line}\r\n".encode()).splitlines()[0]
    host = f"Host: 127.0.0.1:{page.server_port}\r\n"
    assert " 421 " in raw(page, f"{line}{host}Host: evil.example\r\n\r\n".encode()).splitlines()[0]
    assert " 200 " in raw(page, f"{line}{host}\r\n".encode()).splitlines()[0]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_it_can_only_be_read(page, method):
    status, headers, text = ask(page, method=method)
    assert (status, headers["Allow"], "whole" in text) == (405, "GET, HEAD", False)


@pytest.mark.parametrize(
    "content", [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70000 + b"\r\n\r\n"]
)
def test_nonsense_is_refused_and_the_page_stays(page, content):
    answer = raw(page, content)
    assert not answer or answer.split()[1].startswith(("4", "5"))
    assert ask(page)[0] == 200


def test_many_headers_are_refused(page):
    many = "".join(f"X-{n}: 1\r\n" for n in range(200))
    answer = raw(page, f"GET / HTTP/1.0\r\n{many}\r\n".encode())
    assert " 431 " in answer.splitlines()[0]


def test_connections_are_bounded_and_silent_ones_are_closed(page, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    silent = [socket.create_connection(("127.0.0.1", page.server_port)) for _ in range(MOST)]
    until = time.monotonic() + 5
    while len(page._open) < MOST and time.monotonic() < until:
        time.sleep(0.02)
    assert " 503 " in raw(page, b"").splitlines()[0]
    silent[0].sendall(b"GET / HT")  # and never the rest
    until = time.monotonic() + 10
    while page._open and time.monotonic() < until:
        time.sleep(0.1)
    assert ask(page)[0] == 200
    for one in silent:
        one.close()


def test_a_folder_that_cannot_be_shown_says_why_and_a_taken_port_too(page, monkeypatch):
    def broken(self):
        raise RunFolderError("expected this; found\nthat")

    monkeypatch.setattr(Follower, "html", broken)
    assert ask(page)[::2] == (503, "this run cannot be shown: expected this; found that\n")
    with pytest.raises(ConfigError, match=f"expected a free port for the page; {page.server_port} cannot be used"):
        listening(page.server_port)


def test_events_come_as_they_happen_and_end_with_the_server(page):
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=5)
    connection.request("GET", f"/events?token={page.token}")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    lines = [answer.readline() for _ in range(8)]
    assert lines[2:4] == [b"event: change\n", b"data: 1\n"]
    (page.follower.folder / "rounds.jsonl").write_text("{}\n")
    lines = [answer.readline() for _ in range(2)]
    assert lines == [b"event: change\n", b"data: 2\n"]
    page.stop()
    answer.read()
    connection.close()


def test_a_reader_that_leaves_frees_its_connection_within_seconds(page):
    connection = socket.create_connection(("127.0.0.1", page.server_port), timeout=5)
    connection.sendall(
        f"GET /events?token={page.token} HTTP/1.0\r\nHost: localhost:{page.server_port}\r\n\r\n".encode()
    )
    while b"event: status" not in connection.recv(65536):
        pass
    assert page.follower.followers == len(page._open) == 1
    connection.close()
    until = time.monotonic() + 5
    while page._open and time.monotonic() < until:
        time.sleep(0.05)
    assert page.follower.followers == len(page._open) == 0
