"""Commands that start, continue, plan and compare runs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import fedhello as fh
from fedhello.cli.arguments import (
    INTERRUPTED,
    ChangedData,
    Encoding,
    Image,
    Json,
    Label,
    LogFormat,
    Metrics,
    Prompt,
    Quiet,
    Reference,
    Response,
    Run,
    Target,
    Texts,
    Words,
)
from fedhello.cli.output import (
    console_for,
    draw_report,
    file_and_overrides,
    named,
    present,
    refuse,
    say_plan,
    say_result,
    say_summary,
)
from fedhello.cli.watching import Watch, followed


def run(
    words: Words = None,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything; do not train or write.")] = False,
    watch: Watch = False,
    go_on: Annotated[
        Path | None, typer.Option("--continue", help="Folder of a run to go on with, such as with train.rounds=+10.")
    ] = None,
    metrics: Metrics = None,
    log_format: LogFormat = None,
) -> None:
    """Run a federation. Without a config: the embedded demo, offline, real model, real data."""
    if go_on is not None:
        _go_on(go_on, words, dry_run, watch=watch, metrics=metrics, as_json=as_json, quiet=quiet)
        return
    config, console = fh.load_config(*file_and_overrides(words)), console_for(as_json, quiet)
    if dry_run:
        _try_out(config, console, as_json)
        return
    with followed(lambda: _folder(config), watch, metrics) as followers:
        found = fh.run(config, callbacks=followers, console=console)
        say_result(found, console, as_json, f"fedhello resume {found.path}")


def _folder(config: "fh.Config") -> Path:
    """Return the folder that a run is about to have."""
    from fedhello.api import checked_folder

    return checked_folder(config).path


def _go_on(run: Path, words: list[str] | None, dry_run: bool, **how: Any) -> None:
    """Resume a run, as ``fedhello resume`` does."""
    file, overrides = file_and_overrides(words)
    refuse(["dry-run"] if dry_run else [], "for a new run")
    if file is not None:
        raise fh.ConfigError(
            f"expected no configuration file with --continue, since {run} has its own; found {file}. Leave it out."
        )
    resume(run, overrides, **how)


def _try_out(config: "fh.Config", console: Console | None, as_json: bool) -> None:
    """Show the plan; if model or data must be downloaded first, print that they are not checked."""
    from fedhello.api import checked_folder, say_loading

    checked_folder(config)
    say_loading(console)
    try:
        say_plan(fh.plan(fh.prepare(config)), as_json)
    except fh.OutOfReachError as error:
        if as_json:
            print(json.dumps({"checked": "configuration", "unchecked": str(error)}))
            return
        print(f"the configuration is valid: {config.method.name}, {config.train.rounds} rounds")
        print(f"not checked, since it must be downloaded first: {error}")


def resume(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Such as run.keep=1, train.rounds=+10 or train.lr=1e-3, which hold from here.",
        ),
    ] = None,
    changed_data: ChangedData = False,
    watch: Watch = False,
    metrics: Metrics = None,
    as_json: Json = False,
    quiet: Quiet = False,
    log_format: LogFormat = None,
) -> None:
    """Resume a run that was interrupted, failed or killed, from its last checkpoint; or add rounds to it."""
    console = console_for(as_json, quiet)
    with followed(lambda: run, watch, metrics) as followers:
        found = fh.resume(run, overrides or (), changed_data=changed_data, callbacks=followers, console=console)
        if found.session is not None:
            say_result(found, console, as_json, f"fedhello resume {run}")
            return
    if found.summary.rounds and not (run / "report.html").is_file():  # its write may have failed
        draw_report(found)
    if as_json:
        say_summary(found.summary)
    if console is not None:
        ended = found.summary.stopped or "has finished all its rounds"
        console.print(f"{run} {ended}; there is nothing to resume", highlight=False, markup=False, soft_wrap=True)


def init(
    name: Annotated[str, typer.Argument(metavar="DATA", help="A file, a folder, an embedded data set or a hub id.")],
    text: Texts = None,
    label: Label = None,
    image: Image = None,
    prompt: Prompt = None,
    response: Response = None,
    encoding: Encoding = None,
    clients: Annotated[int | None, typer.Option("--clients", help="Number of clients; up to 20 if not given.")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Of each tier: 1GB,4GB for equal shares, or 3/4:1GB,1/4:4GB.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Embedded model, folder or hub id.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to.")] = Path("fedhello.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Inspect your data and write a first configuration for it."""
    columns = named(text=text, label=label, image=image, prompt=prompt, response=response)
    wished = named(clients=clients, memory=memory, model=model)
    for line in fh.init(name, out, encoding=encoding, force=force, **columns, **wished).findings:
        print(line)
    print(f"wrote {out}; show its plan: fedhello plan {out}; run it: fedhello run {out}")


def plan(
    words: Words = None,
    as_json: Json = False,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw what budgets afford, as SVG.")] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write the plan as a page, with a map of labels.")] = None,
) -> None:
    """Show what every tier would train, its costs and limits, and the labels of every client; train nothing."""
    file, overrides = file_and_overrides(words)
    found = fh.plan(fh.prepare(file, [*overrides, "run.engine=local"]))  # the plan does not depend on the engine
    say_plan(found, as_json)
    if page is not None:
        found.write_page(page)
    if picture is not None:
        found.write_picture(picture)


def compare(
    methods: Annotated[
        str,
        typer.Option("--methods", help="Such as fed-hello,gd-hla:pattern=triangle: options follow a colon each."),
    ],
    words: Words = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of each method.")] = "0,1,2",
    out: Annotated[Path | None, typer.Option("--out", help="A folder; RUN.OUT/comparison if not given.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose each method's learning rate first, on validation data.")
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
    """Run several methods with several seeds and compare them; finished runs are kept."""
    from fedhello.comparison.asked import asked_seeds
    from fedhello.comparison.tuning import RATES, asked_rates

    refuse(named(rates=None if tune else rates), "for --tune")
    file, overrides = file_and_overrides(words)
    found = fh.compare(
        file,
        overrides,
        methods=methods,
        seeds=asked_seeds(seeds),
        out=out,
        rates=asked_rates(rates or RATES) if tune else None,
        baselines=not no_baselines,
        reference=reference,
        target=target,
        console=console_for(as_json, quiet),
    )
    if found is None:
        raise typer.Exit(INTERRUPTED)
    present(found, as_json, quiet)
