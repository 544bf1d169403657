"""Flower's SuperLink: its options and its process."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fedhello.errors import ConfigError, EngineError
from fedhello.network.messages import Address
from fedhello.network.processes import how_it_ended, spawn, stop

START_SECONDS = 60.0
"""Seconds that the SuperLink may take until it listens."""


@dataclass(frozen=True)
class ServerOptions:
    """How clients reach the server.

    Attributes:
        host: The address to listen on; by default only this machine can connect.
        port: The port to listen on; 0 takes a free one.
        keys: The folder with ``ca.crt``, ``server.pem``, ``server.key`` and the public keys ``*.pub`` of the clients
            that may connect; None uses no TLS and accepts every client.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None

    def __post_init__(self) -> None:
        if self.keys is not None:
            absent = [name for name in ("ca.crt", "server.pem", "server.key") if not (self.keys / name).is_file()]
            if absent:
                raise ConfigError(
                    f"expected ca.crt, server.pem and server.key in {self.keys}; {', '.join(absent)} is missing. Make "
                    f"them: fedhello keys server --host NAME --out {self.keys}"
                )
            if not self.public_keys:
                raise ConfigError(
                    f"expected a public key NAME.pub of each client in {self.keys}; found none. Make them: "
                    f"fedhello keys client NAME --out {self.keys}"
                )

    @property
    def public_keys(self) -> list[Path]:
        """The keys of the clients that may connect."""
        return [] if self.keys is None else sorted(self.keys.glob("*.pub"))

    @property
    def address(self) -> Address:
        """The address by which this machine reaches the SuperLink."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return Address(local, self.port, None if self.keys is None else self.keys / "ca.crt")

    def superlink(self, secret: Path) -> list[str]:
        """Return the arguments that start the SuperLink."""
        own = ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
        where = ["--host", self.host, "--port", str(self.port)]
        if self.keys is None:
            return ["superlink", "--insecure", *where, *own]
        tls = [("--ssl-ca-certfile", "ca.crt"), ("--ssl-certfile", "server.pem"), ("--ssl-keyfile", "server.key")]
        files = [word for option, name in tls for word in (option, str(self.keys / name))]
        return ["superlink", *files, "--enable-supernode-auth", *where, *own]

    def client_command(self, data: str = "my.csv") -> str:
        """Return the command that joins from another machine."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        proof = "" if self.keys is None else " --ca ca.crt --key NAME"
        return f"fedhello client --server {host}:{self.port}{proof} --data {data} --memory 4GB"


class SuperLink:
    """A SuperLink's process.

    Args:
        options: How clients reach it.
        secret: File with the secret of this server.
        log: File for what it says.
        home: Folder for Flower's files.
    """

    def __init__(self, options: ServerOptions, secret: Path, log: Path, home: Path) -> None:
        self._options, self._secret, self._log, self._home = options, secret, log, home
        self._child = self._spawned()

    def _spawned(self) -> subprocess.Popen[bytes]:
        return spawn("fedhello.network.flower_main", self._options.superlink(self._secret), self._log, self._home)

    def wait(self) -> None:
        """Wait until it listens.

        Raises:
            EngineError: If it does not.
        """
        _wait_until_it_listens(self._child, self._options, self._log)

    def ended(self) -> str | None:
        """Return how it ended; None while it runs."""
        code = self._child.poll()
        return None if code is None else how_it_ended(code)

    def restart(self) -> None:
        """Start it again, and wait until it listens.

        Raises:
            EngineError: If it does not.
        """
        self.stop()
        self._child = self._spawned()
        self.wait()

    def stop(self) -> None:
        """End it."""
        stop(self._child)


@contextmanager
def superlink(options: ServerOptions, secret: bytes, log: Path) -> Iterator[SuperLink]:
    """Start a SuperLink, which ends with this context or this process, whichever is first."""
    with TemporaryDirectory(prefix="fedhello-") as folder:  # of mode 0700
        secret_file = Path(folder) / "secret"
        secret_file.touch(0o600)
        secret_file.write_bytes(secret)
        process = SuperLink(options, secret_file, log, Path(folder) / "flwr")
        try:
            yield process
        finally:
            process.stop()


def _wait_until_it_listens(child: subprocess.Popen[bytes], options: ServerOptions, log: Path) -> None:
    where, end = options.address, time.monotonic() + START_SECONDS
    while time.monotonic() < end and child.poll() is None:
        try:
            socket.create_connection((where.host, where.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise EngineError(f"expected Flower's SuperLink to listen at {where.host_port}; it does not. See {log}.")


def check_port(options: ServerOptions) -> None:
    """Check that the port is free.

    Raises:
        EngineError: If another process listens on it.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise EngineError(
                f"expected to listen at {options.host}:{options.port}; {error.strerror}. Give another host or port."
            ) from error
