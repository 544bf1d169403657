"""A server for one page on this machine: it only reads, and only for those who have its address with the token.

It listens on 127.0.0.1. Other users of the machine reach that, too, so the address holds a random token; and so do
pages of other sites in the user's browser, so the name in a request must be this machine's (else a site could have its
own name resolved to 127.0.0.1). No file is served: there are three paths, and what is behind them is made in memory.
"""

import base64
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fedhello.errors import ConfigError
from fedhello.watch.follower import Follower, problem
from fedhello.watch.loading import loading_page, loading_script

HOST = "127.0.0.1"

MOST = 32
"""The most connections at once; others are sent away."""

PATIENCE = 10.0
"""Seconds that a request may take to arrive, and that a reader may take to take what is sent."""

SAFE = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer."""


def listening(port: int = 0) -> socket.socket:
    """Return a socket of this machine alone, to which connections can be made at once.

    Args:
        port: The port; 0 takes a free one.

    Raises:
        ConfigError: If it is taken.
    """
    try:
        return socket.create_server((HOST, port), backlog=MOST)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"expected a free port for the page; {port} cannot be used: {error}. Give another."
        ) from error


def address_of(opened: socket.socket, token: str) -> str:
    """Return the address of a page, with its token."""
    return f"http://{HOST}:{opened.getsockname()[1]}/?token={token}"


class PageServer(ThreadingHTTPServer):
    """Serves the page of a run.

    Args:
        follower: Follows the run.
        opened: The result of ``listening``.
        token: What an address must hold.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, follower: Follower, opened: socket.socket, token: str) -> None:
        super().__init__(opened.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.server_port = opened, opened.getsockname()[1]
        self.follower, self.token, self.url = follower, token, address_of(opened, token)
        self.hosts = [[f"{HOST}:{self.server_port}"], [f"localhost:{self.server_port}"]]
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, unless there are too many."""
        with self._lock:
            room = len(self._open) < MOST
            if room:
                self._open[request] = time.monotonic() + PATIENCE
        if room:
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.settimeout(0.1)
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.shutdown_request(request)

    def has_come(self, request: socket.socket) -> None:
        """A request has arrived: it may now take as long as it takes."""
        with self._lock:
            if request in self._open:
                self._open[request] = float("inf")

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections whose request does not arrive; called ten times a second."""
        with self._lock:
            slow = [request for request, until in self._open.items() if until < time.monotonic()]
        for request in slow:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)  # its thread notices, and closes it

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: a reader that leaves is none of the run's business."""

    def stop(self) -> None:
        """End all connections, and ``serve_forever``."""
        self.follower.close()
        self.shutdown()


def policy(scripts: Iterable[str]) -> str:
    """Return the content security policy of a page that runs some scripts, and no others."""
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts) or "'none'"
    # Vega puts styles into its drawings.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(script: str) -> str:
    whole = script.replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it
    return base64.b64encode(hashlib.sha256(whole.encode()).digest()).decode()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    timeout = PATIENCE

    def parse_request(self) -> bool:
        """Read a request, and check who asks for what."""
        if not super().parse_request():
            return False
        self.server.has_come(self.connection)
        return self._is_allowed()

    def _is_allowed(self) -> bool:
        if self.command not in ("GET", "HEAD"):
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this page can only be read", Allow="GET, HEAD")
        elif self.headers.get_all("Host") not in self.server.hosts:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "expected 127.0.0.1 or localhost as the server's name")
        elif not self._has_token():
            self._refuse(HTTPStatus.FORBIDDEN, "expected the token in the address that fedhello printed")
        else:
            return True
        return False

    def _has_token(self) -> bool:
        try:
            given = parse_qs(urlsplit(self.path).query, max_num_fields=8).get("token", [""])
        except ValueError:
            return False
        return hmac.compare_digest(given[0].encode(errors="replace"), self.server.token.encode())

    def do_GET(self) -> None:
        """Answer with a page, its content, or events."""
        follower, path = self.server.follower, urlsplit(self.path).path
        if path == "/events":
            self._stream(follower.events())
        elif path == "/":
            self._page()
        elif path == "/main":
            self._made(follower.main)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "expected /, /main or /events")

    do_HEAD = do_GET  # noqa: N815 – as http.server asks for

    def _page(self) -> None:
        if not self.server.follower.exists:
            self._send(loading_page(self.server.follower.folder), [loading_script()])
            return
        from fedhello.report.html import page_scripts

        self._made(self.server.follower.html, page_scripts)

    def _made(self, make: Any, scripts: Any = lambda: ()) -> None:
        try:
            text, allowed = make(), scripts()
        except Exception as error:  # whatever the folder holds, the server goes on
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, problem(error))
            return
        self._send(text, allowed)

    def _send(self, text: str, scripts: Iterable[str] = ()) -> None:
        content = text.encode(errors="replace")
        self._begin(HTTPStatus.OK, "text/html; charset=utf-8", policy(scripts), len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _stream(self, events: Iterable[str]) -> None:
        self._begin(HTTPStatus.OK, "text/event-stream; charset=utf-8", policy(()))
        if self.command == "HEAD":
            return
        for event in events:
            self.wfile.write(event.encode())
            self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be read."""
        self._refuse(HTTPStatus(code), HTTPStatus(code).phrase)

    def _refuse(self, status: HTTPStatus, why: str, **more: str) -> None:
        content = f"{why}\n".encode()
        self._begin(status, "text/plain; charset=utf-8", policy(()), len(content), **more)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str, allowed: str, length: int | None = None, **more: str) -> None:
        self.request_version = "HTTP/1.0"  # before it is read, there would be no headers
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", allowed)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in {**SAFE, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        """Return what the server is called, without versions."""
        return "fedhello"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: addresses hold the token."""
