"""``--metrics HOST:PORT``: a run's health and figures over HTTP, while it loads, waits for clients and trains.

    /healthz    200 with a small JSON object while the run goes on as it should; else 503, with the reason
    /metrics    the same and more in the text format of Prometheus

It is served by daemon threads of the run's process, from what the run has told (``fedhello.network.monitor``).
"""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from fedhello.errors import EngineError
from fedhello.network.supervisor import parse_server

if TYPE_CHECKING:
    from fedhello.network.monitor import Monitor

SLOWEST = 10.0
"""Seconds that a client may take for its request."""

Respond = Callable[[str, list[tuple[str, str]]], Any]


@contextmanager
def monitored(address: str | None, folder: Path) -> "Iterator[list[Monitor]]":
    """Serve a run's health and figures until the end of the context; yield what is to be told of the run.

    Args:
        address: ``HOST:PORT``; None serves nothing, and nothing is to be told.
        folder: The run's folder, which need not exist yet.

    Raises:
        ConfigError: If the address is none.
        EngineError: If another process listens there.
        MissingExtraError: If prometheus-client is not installed.
    """
    if address is None:
        yield []
        return
    from fedhello.network.monitor import Monitor, pages_of

    host, port = parse_server(address, "the address for metrics (--metrics)")
    monitor = Monitor(folder)
    with _listening(host, port) as server:
        server.set_app(_pages(monitor, pages_of(monitor)))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        try:
            yield [monitor]
        finally:
            server.shutdown()


def _pages(monitor: "Monitor", metrics: Any) -> Callable[[dict[str, Any], Respond], Iterable[bytes]]:
    def pages(environment: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/metrics":
            found: Iterable[bytes] = metrics(environment, respond)
            return found
        if path == "/healthz":
            health = monitor.health()
            status, body = "200 OK" if health["reason"] is None else "503 Service Unavailable", json.dumps(health)
        else:
            status, body = "404 Not Found", json.dumps({"reason": "there are /healthz and /metrics"})
        respond(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [body.encode() + b"\n"]

    return pages


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread that ends no run."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a client that went away."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Request(WSGIRequestHandler):
    timeout = SLOWEST

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing about requests."""


def _listening(host: str, port: int) -> _Server:
    try:
        return (_Server6 if ":" in host else _Server)((host, port), _Request)
    except OSError as error:
        raise EngineError(
            f"expected to serve metrics at {host}:{port}; {error.strerror}. Give another host or port (--metrics)."
        ) from error
