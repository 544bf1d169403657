"""``fedhello server --local N``: the server and N clients as real processes on one machine."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedhello.config.read import Source, load_config, raw_of
from fedhello.config.schema import Config
from fedhello.errors import ConfigError, FedhelloError
from fedhello.network.options import ClientOptions
from fedhello.network.processes import end_with_parent, spawn, stop
from fedhello.network.superlink import ServerOptions
from fedhello.network.supervisor import Connection, take_part
from fedhello.notes import always, is_json, show_notes

ROUNDS = 3
"""Of the embedded demo, where no configuration says otherwise."""


def demonstration(source: Source, overrides: Sequence[str], clients: int) -> Config:
    """Return a configuration whose data set is split over ``clients`` clients.

    All of them train in every round, unless fewer are asked for: by the overrides, or by the configuration itself.

    Raises:
        ConfigError: If there is none.
    """
    if clients < 1:
        raise ConfigError(f"expected local (--local) to be at least 1; found {clients}")
    defaults = [f"data.clients={clients}", f"train.clients_per_round={clients}"]
    defaults += [] if source else [f"train.rounds={ROUNDS}"]
    stated = (raw_of(source).get("train") or {}).get("clients_per_round")
    if stated is not None and str(stated).isdecimal() and int(stated) < clients:
        defaults[1] = f"train.clients_per_round={stated}"
    return load_config(source, [*defaults, *overrides])


@contextmanager
def local_clients(
    config: Config, clients: int, say: Callable[[str], None]
) -> Iterator[Callable[[ServerOptions], None]]:
    """Yield a function that starts the clients, which end with this context."""
    children = []

    def start(options: ServerOptions) -> None:
        for k in range(clients):
            brought = _part(config, k).to_json()
            children.append(spawn("fedhello.network.local_clients", [str(options.port), brought]))
        if clients:
            say(f"started {clients} clients on this machine, with the parts 0 … {clients - 1} of {config.data.name}")

    try:
        yield start
    finally:
        for child in children:
            stop(child)


def _part(config: Config, k: int) -> ClientOptions:
    data, model = config.data.name, config.model.name
    return ClientOptions(
        name=f"part-{k:03d}",
        part=k,
        data=data if Path(data).exists() else None,
        model=model if Path(model).exists() else None,
        device=config.run.device,
    )


def main() -> None:
    """Run one of the clients; arguments: ``PORT OPTIONS``."""
    end_with_parent()
    show_notes()
    port, brought = sys.argv[1:]
    options = ClientOptions.from_json(brought)
    name = options.name
    always(name=name)
    try:
        take_part(Connection("127.0.0.1", int(port)), options, lambda line: _say(name, line), None)
    except FedhelloError as error:
        _say(name, f"error: {error}")
        sys.exit(error.exit_code)


def _say(name: str, line: str) -> None:
    sys.stderr.write(f"{line}\n" if is_json() else f"{name}: {line}\n")


if __name__ == "__main__":
    main()
