"""Commands of federations on many machines."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import fedhello as fh
from fedhello.cli.arguments import (
    ChangedData,
    Consent,
    Download,
    Encoding,
    Epochs,
    Epsilon,
    Image,
    Json,
    Label,
    Labels,
    LeastPerClass,
    LogFormat,
    Metrics,
    Models,
    OwnLedger,
    Prompt,
    Quiet,
    Response,
    Scores,
    Secure,
    Statistics,
    Tasks,
    Texts,
    Words,
)
from fedhello.cli.output import console_for, file_and_overrides, list_files, named, say_result
from fedhello.cli.watching import Watch, followed
from fedhello.notes import always, is_json


def server(
    words: Words = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Its port; 0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Folder made by fedhello keys: TLS, and clients that may connect.")
    ] = None,
    local: Annotated[int | None, typer.Option("--local", help="Start this number of clients on this machine.")] = None,
    watch: Watch = False,
    metrics: Metrics = None,
    changed_data: ChangedData = False,
    as_json: Json = False,
    quiet: Quiet = False,
    log_format: LogFormat = None,
) -> None:
    """Run a configuration with clients on other machines; the same command resumes a stopped run."""
    _end_in_order()
    console = console_for(as_json, quiet)
    source = file_and_overrides(words)
    with followed(lambda: _folder(*source, local), watch, metrics) as followers:
        found = fh.serve(
            *source,
            host=host,
            port=port,
            keys=keys,
            local=local,
            changed_data=changed_data,
            callbacks=followers,
            console=console,
        )
        say_result(found, console, as_json, "the same command")


def _folder(config: Path | None, overrides: list[str], local: int | None) -> Path:
    """Return the folder that a served run is about to have, or has."""
    from fedhello.network.federation import served_folder

    return served_folder(config, overrides, local)


def client(
    server: Annotated[str | None, typer.Option("--server", help="HOST:PORT of fedhello server.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="This client's own samples: a file or a folder.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Such as 4GB; the free memory if not given.")] = None,
    upload: Annotated[str | None, typer.Option("--upload", help="Bytes per round, such as 1MB.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Seconds of training per round.")] = None,
    blocks: Annotated[int | None, typer.Option("--blocks", help="Blocks to train at most.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="LoRA rank to train at most.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The server's ca.crt; without it, no TLS.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="This client's private key.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name that is the same at every start.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Folder or public name of your own model.")] = None,
    text: Texts = None,
    label: Label = None,
    image: Image = None,
    prompt: Prompt = None,
    response: Response = None,
    encoding: Encoding = None,
    consent: Consent = None,
    labels: Labels = None,
    epochs: Epochs = None,
    download: Download = None,
    tasks: Tasks = None,
    models: Models = None,
    statistics: Statistics = None,
    least_per_class: LeastPerClass = None,
    scores: Scores = None,
    secure: Secure = None,
    epsilon: Epsilon = None,
    ledger: OwnLedger = None,
    part: Annotated[int | None, typer.Option("--part", help="Take this part of the configured data set.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, …")] = "auto",
    patience: Annotated[float, typer.Option("--patience", help="Seconds to wait for an unreachable server.")] = 600.0,
    log: Annotated[Path | None, typer.Option("--log", help="File for Flower's log.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Connect to nobody; print what would leave.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="The federation's configuration, for the sizes in a dry run.")
    ] = None,
    as_json: Json = False,
    log_format: LogFormat = None,
) -> None:
    """Take part in a run on another machine, with your own data and budget."""
    from fedhello.network.consent import read_consent
    from fedhello.network.options import default_name

    _end_in_order()
    always(name=name or default_name(data, part, key))
    allowed = named(epochs=epochs, download=download, statistics=statistics, scores=scores, secure=secure)
    allowed |= named(epsilon=epsilon, ledger=None if ledger is None else str(ledger))
    allowed |= named(least_per_class=least_per_class, labels=labels or None, tasks=tasks or None, models=models or None)
    found = fh.join(
        server,
        data,
        budget=named(memory=memory, upload=upload, seconds=seconds, blocks=blocks, rank=rank),
        ca=ca,
        key=key,
        name=name,
        model=model,
        columns=named(text=text or None, label=label, image=image, prompt=prompt, response=response),
        encoding=encoding,
        consent=read_consent(consent, allowed),
        part=part,
        device=device,
        patience=patience,
        log=log,
        dry_run=dry_run,
        config=config,
        console=None if is_json() else Console(stderr=True),
    )
    if found is not None:
        print(json.dumps(found.to_dict()) if as_json else "\n".join(found.lines()))


def server_keys(
    host: Annotated[list[str], typer.Option("--host", help="Name or IP address that clients use; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    days: Annotated[int, typer.Option("--days", help="How long the certificate is valid.")] = 365,
) -> None:
    """Make a certificate authority and a certificate for the server."""
    files = fh.make_server_keys(host, out, days)
    from fedhello.network.keys import server_steps

    list_files(files, server_steps(out, host[0]))


def client_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the client's key.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
) -> None:
    """Make a key pair for one client."""
    files = fh.make_client_key(name, out)
    from fedhello.network.keys import client_steps

    list_files(files, client_steps(*files))


def _end_in_order() -> None:
    """Handle SIGTERM like Ctrl-C, so that child processes end and temporary files are removed."""

    def end(number: int, _: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
