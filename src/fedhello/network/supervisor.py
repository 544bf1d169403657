"""``fedhello client``: take part in a federation with your own data, budget and machine.

    fedhello client          a small process that watches two others, restarts them, and ends them
      ├─ flower-supernode    speaks with the server
      └─ worker              holds model and data, and trains; see ``client`` and ``worker`` beside this file

When the worker dies (out of memory, or its training hangs), both are restarted, and the client joins again under its
name. When the SuperNode ends because the server was unreachable, only the SuperNode is restarted.
"""

import contextlib
import re
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fedhello.errors import ConfigError, EngineError, FedhelloError
from fedhello.network.client import said_by
from fedhello.network.options import ClientOptions
from fedhello.network.processes import free_port, how_it_ended, spawn, stop

WAIT_TO_SEND = 3.0
"""Seconds for the last reply to reach the server; Flower polls for replies twice a second."""

PAUSE = 2.0
"""Seconds before an ended process is restarted."""

MOST_CRASHES, LONG = 5, 300.0
"""How often a worker may end soon after its start before it is an error."""

PATIENCE = 5.0
"""Seconds that the server may take to accept a connection."""


@dataclass(frozen=True)
class Connection:
    """How a client reaches the server.

    Attributes:
        host: The server's name or IP address.
        port: Its port.
        ca: The certificate of the authority that signed the server's certificate; None uses no TLS.
        key: The private key by which the client authenticates itself; None without one.
        patience: Seconds to wait for an unreachable server.
    """

    host: str
    port: int
    ca: Path | None = None
    key: Path | None = None
    patience: float = 600.0

    def __post_init__(self) -> None:
        for option, file in (("ca (--ca)", self.ca), ("key (--key)", self.key)):
            if file is not None and not file.is_file():
                raise ConfigError(f"expected {option} to name a file; {file} is not a file")
        if self.key is not None and self.ca is None:
            raise ConfigError("expected ca (--ca) with key (--key), since a key needs TLS; found none")

    def supernode(self, port: int, secret: Path) -> list[str]:
        """Return the arguments that start a SuperNode for this connection, which listens on a port of this machine."""
        tls = ["--insecure"] if self.ca is None else ["--root-certificates", str(self.ca)]
        proof = [] if self.key is None else ["--auth-supernode-private-key", str(self.key)]
        own = ["--isolation", "process", "--superexec-auth-secret-file", str(secret), "--port", str(port)]
        return ["supernode", "--superlink", self.where, *tls, *proof, *own]

    @property
    def where(self) -> str:
        """Host and port as ``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def answers(self) -> bool:
        """Whether the server accepts connections."""
        try:
            socket.create_connection((self.host, self.port), timeout=PATIENCE).close()
        except OSError:
            return False
        return True

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError) as error:  # ssl's own errors are among them
            raise ConfigError(f"expected ca (--ca) to be the server's ca.crt; {self.ca} is no certificate") from error
        if self.ca is None:  # only to see whether the server uses TLS
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def check(self) -> None:
        """Check that server and client agree on TLS; Flower itself retries endlessly without a message.

        Raises:
            ConfigError: If the authority's certificate is not valid.
            EngineError: If server and client do not agree on TLS.
        """
        context = self._context()
        try:
            with socket.create_connection((self.host, self.port), timeout=PATIENCE) as there:
                context.wrap_socket(there, server_hostname=self.host).close()
            speaks_tls = True
        except ssl.SSLCertVerificationError as error:
            raise EngineError(
                f"expected the server at {self.where} to have a certificate that {self.ca} vouches for; TLS says: "
                f"{error.verify_message}. Get ca.crt from whoever runs it, and name the host as its keys do."
            ) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return  # it was there, and is away again
        except ssl.SSLError:
            speaks_tls = False
        except OSError:
            return
        if speaks_tls and self.ca is None:
            raise EngineError(
                f"expected ca (--ca ca.crt) and key (--key NAME), since the server at {self.where} uses TLS; found "
                "neither"
            )
        if not speaks_tls and self.ca is not None:
            raise EngineError(
                f"expected TLS from the server at {self.where}; it uses none. Start it with keys (--keys FOLDER), or "
                "leave out ca and key (--ca, --key)."
            )


def take_part(connection: Connection, options: ClientOptions, say: Callable[[str], None], log: Path | None) -> None:
    """Take part in a run until it is over.

    Args:
        connection: The connection to the server.
        options: The options of the client.
        say: Called with messages for the user.
        log: File for Flower's log; None drops it at the end.

    Raises:
        FedhelloError: Of the matching kind, if this client cannot take part, or the server is unreachable for too long.
    """
    with TemporaryDirectory(prefix="fedhello-") as folder:  # of mode 0700
        supervisor = _Supervisor(connection, options, say, Path(folder), log or Path(folder) / "flower.log")
        with contextlib.closing(supervisor):
            supervisor.watch()


class _Supervisor:
    """Watches and restarts SuperNode and worker."""

    def __init__(
        self, connection: Connection, options: ClientOptions, say: Callable[[str], None], folder: Path, log: Path
    ) -> None:
        self._connection, self._options, self._say, self._log = connection, options, say, log
        self._secret = folder / "secret"
        self._secret.touch(0o600)
        self._secret.write_bytes(secrets.token_bytes(32))
        self._port = free_port()
        self._crashes, self._began, self._said = 0, 0.0, ""
        self._node: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._home = folder / "flwr"

    def watch(self) -> None:
        """Keep both running until the run is over."""
        seen = time.monotonic()
        self._say_once(f"connecting to {self._connection.where} …")
        while True:
            if self._connection.answers():
                seen = time.monotonic()
                self._start_what_is_missing()
            elif self._worker is None:
                self._say_once(
                    f"nothing answers at {self._connection.where} yet; trying again for as long as --patience says"
                )
            if time.monotonic() - seen > self._connection.patience:
                raise EngineError(
                    f"expected a server at {self._connection.where}; nothing answered for "
                    f"{self._connection.patience:.0f} s"
                )
            if self._over():
                return
            time.sleep(PAUSE)

    def _start_what_is_missing(self) -> None:
        if self._node is None:
            self._connection.check()
            arguments = self._connection.supernode(self._port, self._secret)
            self._node = spawn("fedhello.network.flower_main", arguments, self._log, self._home)
        if self._worker is None:
            arguments = [self._options.to_json(), str(self._port), str(self._secret)]
            self._say_once(f"{self._connection.where} answers; starting the process that trains …")
            self._worker = spawn("fedhello.network.client", arguments, home=self._home)
            self._began = time.monotonic()

    def _over(self) -> bool:
        """Handle ended processes; return whether the run is over."""
        if self._worker is not None and self._worker.poll() is not None:
            code, self._worker = self._worker.returncode, None
            if code == 0:
                time.sleep(WAIT_TO_SEND)
                return True
            if code in known_errors():
                time.sleep(WAIT_TO_SEND)
                raise known_errors()[code](said_by(self._secret) or f"the training process ended with code {code}")
            self._count_crash(_why(code))
            self._stop_node()  # a new node is known to be new, and gets no reply that is not coming any more
        if self._node is not None and self._node.poll() is not None:
            # With a key, Flower refuses the same node for about a minute after an end that was not orderly.
            self._say_once(f"the connection ended ({_why(self._node.returncode)}); connecting again")
            self._node = None
        return False

    def _count_crash(self, why: str) -> None:
        """Report that the worker ended, and raise an error after too many times.

        Raises:
            EngineError: If it ended too often.
        """
        self._crashes = 1 if time.monotonic() - self._began > LONG else self._crashes + 1
        if self._crashes > MOST_CRASHES:
            raise EngineError(f"expected the training process to go on; it ended {MOST_CRASHES} times, at last {why}")
        self._say(f"the training process ended ({why}); restarting it")

    def _say_once(self, line: str) -> None:
        """Print a line unless it equals the last one."""
        if line != self._said:
            self._say(line)
        self._said = line

    def _stop_node(self) -> None:
        if self._node is not None:
            stop(self._node)
            self._node = None

    def close(self) -> None:
        """End both processes."""
        for child in (self._worker, self._node):
            if child is not None:
                stop(child)


def known_errors() -> dict[int, type[FedhelloError]]:
    """Return the errors that a restart does not fix, by their exit codes."""
    from fedhello import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedhelloError)]
    return {kind.exit_code: kind for kind in kinds if kind is not FedhelloError}


def _why(code: int) -> str:
    from fedhello.network.worker import HUNG

    if code == HUNG:
        return "training took longer than the server waits for"
    return how_it_ended(code)


def parse_server(text: str, what: str = "the server (--server)") -> tuple[str, int]:
    """Return host and port from ``HOST:PORT``, with an IPv6 address in brackets.

    Args:
        text: The address.
        what: Whose it is, for the message.

    Raises:
        ConfigError: If it is none.
    """
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:/]+)):(\d{1,5})", text)
    if found is None or not 0 < int(found[3]) < 2**16:
        raise ConfigError(f"expected {what} as HOST:PORT, such as 192.168.0.7:8000; found {text!r}")
    return found[1] or found[2], int(found[3])
