"""The library's functions for federations on many machines: serve, join, and make keys.

serve("my.yaml", host="0.0.0.0", keys="keys")                     # on one machine
join("server.example:8000", "mine.csv", budget={"memory": "4GB"})  # on each of the others
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fedhello.config.read import Overrides, Source, load_config, words_of
from fedhello.config.schema import Config
from fedhello.errors import ConfigError, MissingExtraError
from fedhello.network import server
from fedhello.network.consent import Consent, read_consent
from fedhello.network.local_clients import demonstration, local_clients
from fedhello.network.options import ClientOptions, default_name
from fedhello.network.superlink import ServerOptions
from fedhello.network.supervisor import Connection, parse_server, take_part
from fedhello.notes import logger
from fedhello.report.plan_file import PlanFile
from fedhello.results.run import TrainedRun
from fedhello.runs.callbacks import Callback, checked_callbacks
from fedhello.runs.console import Progress
from fedhello.streams import show

if TYPE_CHECKING:
    from fedhello.network.dry_run import DryRun

LIMITS = ("memory", "upload", "seconds", "blocks", "rank")
"""The limits that a client's budget may have."""


def serve(
    config: Source = None,
    overrides: Overrides = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: str | Path | None = None,
    local: int | None = None,
    changed_data: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> TrainedRun:
    """Run a configuration with clients on other machines; called again, it resumes a stopped run.

    Args:
        config: The configuration: a YAML file, nested mappings or a ``Config``; None is the embedded demo.
        overrides: Dotted keys with new values.
        host: The address to listen on; ``0.0.0.0`` for all.
        port: The port to listen on; 0 takes a free one.
        keys: The folder with the files of ``make_server_keys`` and ``make_client_key``: TLS, and the clients that may
            connect. None uses no TLS and accepts every client.
        local: Number of clients to start on this machine, which share the configured data set.
        changed_data: Resume a stopped run although the server's data are not those that it started with.
        callbacks: Callbacks that observe the run and may stop it.
        console: Where to show progress, such as ``rich.console.Console()``; None shows none.

    Returns:
        The run; its folder is set by ``run.out`` and ``run.name``.

    Raises:
        ClientsError: If too few clients join within ``run.wait``.
        MissingExtraError: If Flower is not installed.
        FedhelloError: Of the matching kind, for every error that the user can fix.

    Example:
        >>> fh.serve("my.yaml", {"run.name": "net"}, port=0, local=3).summary.status  # doctest: +SKIP
        'finished'
    """
    _check_flower()
    callbacks = checked_callbacks(callbacks)
    wanted, say = _served(config, overrides, local), _saying(console)
    options = ServerOptions(host, port, None if keys is None else Path(keys))
    with local_clients(wanted, local or 0, say) as start:
        folder, _ = server.serve(
            wanted,
            options,
            lambda folder: [Progress(console, folder), PlanFile(folder), *callbacks],
            say,
            start,
            changed_data,
        )
    return TrainedRun(folder.path)


def _served(config: Source, overrides: Overrides, local: int | None) -> Config:
    words = words_of(overrides)
    return server.served(load_config(config, words) if local is None else demonstration(config, words, local))


def served_folder(config: Source, overrides: Overrides, local: int | None) -> Path:
    """Return the folder of the run that ``serve`` starts or resumes.

    Args:
        config: As for ``serve``.
        overrides: Likewise.
        local: Likewise.
    """
    run = _served(config, overrides, local).run
    return Path(run.out) / (run.name or "")


def join(
    server: str | None = None,
    data: str | Path | None = None,
    *,
    budget: Mapping[str, Any] | None = None,
    ca: str | Path | None = None,
    key: str | Path | None = None,
    name: str | None = None,
    model: str | Path | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    encoding: str | None = None,
    consent: Consent | Mapping[str, Any] | str | Path | None = None,
    part: int | None = None,
    device: str = "auto",
    patience: float = 600.0,
    log: str | Path | None = None,
    dry_run: bool = False,
    config: Source = None,
    console: Console | None = None,
) -> "DryRun | None":
    """Take part in a run on another machine, with your own data and budget, until it is over.

    Args:
        server: ``HOST:PORT`` of the server; not needed for a dry run.
        data: This client's own samples: a file, a folder, an embedded data set or a hub id.
        budget: The client's budget: ``memory`` and ``upload`` in bytes (``"4GB"`` or a number), ``seconds`` of training
            per round, ``blocks`` and ``rank``; None takes the free memory.
        ca: The server's ``ca.crt``; None uses no TLS.
        key: This client's private key, if the server needs one.
        name: A name that is the same at every start; None derives it from the key, or from machine and data.
        model: The folder or public name of your own foundation model; None takes the one that the server names.
        columns: ``text`` (two for pairs of texts), ``label``, ``image``, ``prompt`` or ``response`` → the column in
            the data; columns that are not named are found by their names and values, never by the server's.
        encoding: Of tables that have no byte order mark and are not UTF-8, such as ``cp1252``; the server names none.
        consent: What you consent to, beyond columns and budget: a ``Consent``, its keys, or a YAML file with them.
            What the server asks for beyond it is refused.
        part: Index of the client's part of the configured data set, from 0.
        device: ``auto``, ``cpu``, ``cuda``, …
        patience: Seconds to wait for an unreachable server.
        log: File for Flower's log; None drops it.
        dry_run: Connect to nobody, and return what would leave this client.
        config: The federation's configuration, for the sizes in a dry run that depend on it.
        console: Where to show messages; None uses the logger ``fedhello``.

    Returns:
        What would leave in a dry run; else None, once the run is over.

    Raises:
        ConfigError: If there is no server to take part with, or an option is not valid.
        EngineError: If the server is unreachable for too long, or its messages are not valid.
        MissingExtraError: If Flower is not installed.
        FedhelloError: Of the kind that fits, if this client cannot take part.

    Example:
        >>> fh.join("server.example:8000", "mine.csv", budget={"memory": "4GB"})  # doctest: +SKIP
    """
    key = None if key is None else Path(key)
    data = None if data is None else str(data)
    options = ClientOptions(
        name=name or default_name(data, part, key),
        data=data,
        part=part,
        model=None if model is None else str(model),
        device=device,
        consent=read_consent(consent, {"columns": columns or {}, "budget": _known(budget or {})}),
        key=None if key is None else str(key),
        encoding=encoding,
    )
    if dry_run:
        from fedhello.network.dry_run import dry_run as tried

        return tried(options, config)
    if config is not None:
        raise ConfigError("expected a dry run (--dry-run) with a configuration (--config); found none")
    connection = _connection(server, None if ca is None else Path(ca), key, patience)
    take_part(connection, options, _saying(console), None if log is None else Path(log))
    return None


def _connection(server: str | None, ca: Path | None, key: Path | None, patience: float) -> Connection:
    """Return how a client that takes part reaches its server."""
    if server is None:
        raise ConfigError("expected a server (--server HOST:PORT), or a dry run (--dry-run); found none")
    _check_flower()
    return Connection(*parse_server(server), ca, key, patience)


def make_server_keys(hosts: Sequence[str], out: str | Path, days: int = 365) -> tuple[Path, ...]:
    """Make a certificate authority and a certificate for the server.

    Args:
        hosts: Names and IP addresses by which clients reach it, at least one; those of the machine itself are added.
        out: The folder for the files; made if it is not there.
        days: How long both certificates are valid.

    Returns:
        ``ca.crt``, ``ca.key``, ``server.pem`` and ``server.key``.

    Raises:
        ConfigError: If a host or the number of days cannot be certified.
        MissingExtraError: If cryptography is not installed.
        RunFolderError: If one of the files exists, or cannot be written.

    Example:
        >>> [file.name for file in fh.make_server_keys(["server.example"], "keys")]
        ['ca.crt', 'ca.key', 'server.pem', 'server.key']
    """
    from fedhello.network.keys import make_server_keys

    return make_server_keys(hosts, days, Path(out))


def make_client_key(name: str, out: str | Path) -> tuple[Path, Path]:
    """Make the key pair of one client.

    Args:
        name: The client's name, which is also the name of the files.
        out: The folder for the files; made if it is not there.

    Returns:
        ``NAME``, the private key, and ``NAME.pub``, the public key for the server.

    Raises:
        ConfigError: If the name is not a valid file name.
        MissingExtraError: If cryptography is not installed.
        RunFolderError: If one of the files exists, or cannot be written.

    Example:
        >>> [file.name for file in fh.make_client_key("berlin", "keys")]
        ['berlin', 'berlin.pub']
    """
    from fedhello.network.keys import make_client_key

    return make_client_key(name, Path(out))


def _known(budget: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a budget whose limits are all known."""
    unknown = [limit for limit in budget if limit not in LIMITS]
    if unknown:
        raise ConfigError(f"expected a budget of {', '.join(LIMITS)}; found {unknown[0]!r}")
    return budget


def _check_flower() -> None:
    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("clients on other machines need Flower; run: pip install 'fedhello[flower]'")


def _saying(console: Console | None) -> Callable[[str], None]:
    """Return a function that prints a line on the console, or else logs it."""
    if console is None:
        return logger.info
    return lambda line: show(console, line, highlight=False, soft_wrap=True, markup=False)
