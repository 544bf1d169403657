"""Commands that start, continue, plan and compare runs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhello.cli.arguments import INTERRUPTED, Json, Quiet, Reference, Run, Target, Words
from fedhello.cli.output import (
    config_of,
    console_for,
    file_and_overrides,
    plan_of,
    present,
    refuse,
    say_finished,
    say_plan,
    say_result,
    try_out,
)
from fedhello.errors import (
    ConfigError,
)


def run(
    words: Words = None,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train and write nothing.")] = False,
) -> None:
    """Run a federation. Without a config: the embedded demo, offline, real model, real data."""
    from fedhello import api
    from fedhello.config.read import load_config

    config = load_config(*file_and_overrides(words))
    console, hidden = console_for(as_json, quiet)
    if dry_run:
        api.checked_folder(config)
        api.say_loading(None if hidden else console)
        try_out(config, as_json)
        return
    said = api.run(config, console=None if hidden else console)
    say_result(said, as_json, quiet, f"fedhello resume {said.path}")


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
    from fedhello import api

    console, hidden = console_for(as_json, quiet)
    said, nothing_left = api.resumed(run, overrides or (), console=None if hidden else console)
    if nothing_left:
        say_finished(said, console, as_json, hidden)
    else:
        say_result(said, as_json, quiet, f"fedhello resume {run}")


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


def plan(
    words: Words = None,
    as_json: Json = False,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw what budgets afford, as SVG.")] = None,
) -> None:
    """Show what every tier would train, what it takes, why not more, and the labels of every client; train nothing."""
    from fedhello.report import plan as planning
    from fedhello.runs.files import write_whole
    from fedhello.setup.prepare import prepare

    described = plan_of(prepare(config_of(words)))
    say_plan(described, as_json)
    if picture is not None:
        write_whole(picture, planning.picture(described) + "\n")


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
    from fedhello.comparison.asked import asked_seeds
    from fedhello.comparison.compare import compare as compare_methods
    from fedhello.comparison.compare import comparison_folder, shared_config

    refuse({"--rates"} if rates is not None and not tune else set(), "for --tune")
    file, overrides = file_and_overrides(words)
    console, hidden = Console(stderr=as_json), quiet or as_json
    folder = out or comparison_folder(shared_config(file, overrides))
    found = compare_methods(
        file,
        methods,
        asked_seeds(seeds),
        overrides=overrides,
        out=folder,
        rates=tuning.asked_rates(rates or tuning.RATES) if tune else None,
        baselines=not no_baselines,
        reference=reference,
        target=target,
        console=None if hidden else console,
    )
    if found is None:
        raise typer.Exit(INTERRUPTED)
    present(found, folder, as_json, quiet, said=found.said)
