"""Commands of federations on many machines."""

import importlib.metadata
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhello.cli.arguments import Json, Quiet, Words
from fedhello.cli.output import (
    config_of,
    console_for,
    file_and_overrides,
    list_files,
    say_on_stderr,
    say_result,
)
from fedhello.errors import (
    MissingExtraError,
)


def server(
    words: Words = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Its port; 0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Folder that fedhello keys made: TLS, and clients that may connect.")
    ] = None,
    local: Annotated[int | None, typer.Option("--local", help="Start so many clients on this machine.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Play a configuration with clients on other machines; started again, go on where it stopped."""
    from fedhello.network.local_clients import demonstration, local_clients
    from fedhello.network.server import serve, served
    from fedhello.network.superlink import ServerOptions
    from fedhello.results.run import TrainedRun
    from fedhello.runs.console import Progress

    _check_flower()
    _end_in_order()
    config = served(config_of(words) if local is None else demonstration(*file_and_overrides(words), local))
    console, hidden = console_for(as_json, quiet)
    options = ServerOptions(host, port, keys)

    def say(line: str) -> None:
        if not hidden:
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    def watching(folder: Any) -> list[Any]:
        return [Progress(None if hidden else console, folder)]

    with local_clients(config, local or 0, say) as start:
        folder, _ = serve(config, options, watching, say, start)
    say_result(TrainedRun(folder.path), as_json, quiet, "the same command")


def client(
    server: Annotated[str, typer.Option("--server", help="HOST:PORT of fedhello server.")],
    data: Annotated[str | None, typer.Option("--data", help="This client's own samples: a file or a folder.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Such as 4GB; what is free if not given.")] = None,
    upload: Annotated[str | None, typer.Option("--upload", help="Bytes per round, such as 1MB.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Of training per round.")] = None,
    blocks: Annotated[int | None, typer.Option("--blocks", help="Blocks to train at most.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="LoRA rank to train at most.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The server's ca.crt; without it, no TLS.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="This client's private key.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name that stays the same from start to start.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Folder of the model, where it has no public name.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of texts, if called otherwise than there.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of classes, likewise.")] = None,
    part: Annotated[int | None, typer.Option("--part", help="Take this part of the configured data set.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, …")] = "auto",
    patience: Annotated[float, typer.Option("--patience", help="Seconds to wait for a server that is away.")] = 600.0,
    log: Annotated[Path | None, typer.Option("--log", help="Where to put what Flower says.")] = None,
) -> None:
    """Take part in a run on another machine, with your own data and budget."""
    from fedhello.network.client import ClientOptions, default_name, parse_bytes
    from fedhello.network.supervisor import Connection, parse_server, take_part

    _check_flower()
    _end_in_order()
    budget = {
        "memory": None if memory is None else parse_bytes(memory),
        "upload": None if upload is None else parse_bytes(upload),
        "seconds": seconds,
        "blocks": blocks, "rank": rank,
    }  # fmt: skip
    options = ClientOptions(
        name=name or default_name(data, part, key),
        data=data,
        part=part,
        model=model,
        device=device,
        columns={column: value for column, value in (("text", text), ("label", label)) if value is not None},
        budget={limit: value for limit, value in budget.items() if value is not None},
    )
    take_part(Connection(*parse_server(server), ca, key, patience), options, say_on_stderr, log)


def server_keys(
    host: Annotated[list[str], typer.Option("--host", help="Name or IP address that clients call; more than once.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    days: Annotated[int, typer.Option("--days", help="How long the certificate is valid.")] = 365,
) -> None:
    """Make a certificate authority of your own, and a certificate for the server."""
    from fedhello.network.keys import make_server_keys, server_steps

    files = make_server_keys(host, days, out)
    list_files(files, server_steps(out, host[0]))


def client_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the client's key.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
) -> None:
    """Make a key pair for one client."""
    from fedhello.network.keys import client_steps, make_client_key

    files = make_client_key(name, out)
    list_files(files, client_steps(*files))


def _check_flower() -> None:
    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("clients on other machines need Flower; run: pip install 'fedhello[flower]'")


def _end_in_order() -> None:
    """Let SIGTERM unwind like Ctrl-C, so that child processes and temporary files go."""

    def end(number: int, _: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
