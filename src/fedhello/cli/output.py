"""What commands print, and where."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from fedhello.cli.arguments import INTERRUPTED
from fedhello.errors import (
    ConfigError,
    MissingExtraError,
    OutOfReachError,
)


def list_files(files: Sequence[Path], steps: Sequence[str]) -> None:
    """Say which files were written, and what to do with them."""
    print("wrote " + ", ".join(map(str, files)))
    for step in steps:
        print(step)


def console_for(as_json: bool, quiet: bool) -> tuple[Console, bool]:
    """Return where progress is shown, and whether it is hidden."""
    return Console(stderr=as_json), quiet or as_json


def say_result(run: Any, as_json: bool, quiet: bool, go_on: str) -> None:
    """Draw a run's report and print what was asked for."""
    from fedhello.runs.folder import RunFolder

    console, hidden = console_for(as_json, quiet)
    folder, summary = RunFolder(run.path), run.summary
    drawn = _draw_report(folder) if summary.rounds else None
    if drawn is not None and not hidden:
        console.print(f"report: {drawn}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(folder.summary()))
    if summary.status == "interrupted":
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


def say_finished(run: Any, console: Console, as_json: bool, hidden: bool) -> None:
    """Say that a run has nothing to go on with."""
    from fedhello.runs.folder import RunFolder

    if as_json:
        print(json.dumps(RunFolder(run.path).summary()))
    if not hidden:
        console.print(f"{run.path} has finished all its rounds; there is nothing to go on with", highlight=False)


def say_on_stderr(line: str) -> None:
    """Print one line where no result is printed."""
    print(line, file=sys.stderr, flush=True)


def config_of(words: Sequence[str] | None) -> Any:
    """Return the configuration that a command line asks for."""
    from fedhello.config.load import load_config

    return load_config(*file_and_overrides(words))


def file_and_overrides(words: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """Tell the one configuration file among some words from the overrides."""
    files = [word for word in words or () if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"expected one configuration file; found {len(files)}: {', '.join(files)}")
    return Path(files[0]) if files else None, [word for word in words or () if "=" in word]


def restored(run: Path, name: str | None, client: int | None) -> Any:
    """Load one trained model of a run, and say what is to be known of it."""
    from fedhello.results.trained import load_trained
    from fedhello.runs.folder import RunFolder

    trained = load_trained(RunFolder(run), name, client)
    say_notes(trained.notes)
    return trained


def say_notes(notes: Iterable[str]) -> None:
    """Print what a user should know."""
    for note in notes:
        say_on_stderr(f"note: {note}")


def refuse(options: set[str], where: str) -> None:
    """Refuse options that have no meaning here."""
    if options:
        raise ConfigError(f"expected no {' or '.join(sorted(options))} here; that is {where}")


def present(comparison: Any, folder: Path, as_json: bool, quiet: bool, said: Sequence[str] = ()) -> None:
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


def plan_of(session: Any) -> dict[str, Any]:
    """Return what ``fedhello plan`` says of a session."""
    from fedhello.report.plan import describe

    return describe(session)


def try_out(config: Any, as_json: bool) -> None:
    """Show the plan; where model or data must be downloaded first, say that they were not looked at."""
    from fedhello.setup.prepare import prepare

    try:
        say_plan(plan_of(prepare(config)), as_json)
    except OutOfReachError as error:
        if as_json:
            print(json.dumps({"checked": "configuration", "unchecked": str(error)}))
            return
        print(f"the configuration is in order: {config.method.name}, {config.train.rounds} rounds")
        print(f"not checked, since it must be downloaded first: {error}")


def say_plan(plan: dict[str, Any], as_json: bool) -> None:
    """Print a plan."""
    from fedhello.report.plan import show

    if as_json:
        print(json.dumps(plan))
    else:
        show(plan, Console())
