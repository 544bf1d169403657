"""Output of commands."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import fedhello as fh
from fedhello.cli.arguments import INTERRUPTED
from fedhello.notes import be_quiet, is_json, tell


def file_and_overrides(words: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """Return the configuration file, if any, and the overrides among some words.

    Raises:
        ConfigError: If there are several files.
    """
    files = [word for word in words or () if "=" not in word]
    if len(files) > 1:
        raise fh.ConfigError(
            f"expected one configuration file; found {len(files)}: {', '.join(files)}. An override has an equals sign: "
            "train.rounds=5."
        )
    return Path(files[0]) if files else None, [word for word in words or () if "=" in word]


def named(**values: Any) -> dict[str, Any]:
    """Return the values that are not None, by name."""
    return {name: value for name, value in values.items() if value is not None}


def refuse(options: Iterable[str], where: str) -> None:
    """Raise an error if options are given that do not apply."""
    if listed := " or ".join(sorted(f"--{option}" for option in options)):
        raise fh.ConfigError(f"expected no {listed} here; that is {where}")


def console_for(as_json: bool, quiet: bool) -> Console | None:
    """Return the console for progress; None if it is hidden, or told as JSON."""
    if quiet and is_json():
        be_quiet()
    return None if quiet or as_json or is_json() else Console(markup=False)


def say_summary(summary: Any) -> None:
    """Print the summary of a run as JSON."""
    print(json.dumps(summary.to_dict()))


def say_result(run: Any, console: Console | None, as_json: bool, go_on: str) -> None:
    """Write a run's report, and print its summary."""
    summary = run.summary
    try:
        drawn = draw_report(run) if summary.rounds else None
    except fh.RunFolderError as error:
        raise fh.RunFolderError(
            f"{error}. The run itself is {summary.status}; put this right and draw the page: fedhello report {run.path}"
        ) from error
    if drawn is not None and console is not None:
        console.print(f"report: {drawn}", highlight=False, soft_wrap=True, markup=False)
    if as_json:
        say_summary(summary)
    if summary.status == "interrupted":
        if console is None:  # otherwise it is shown already
            tell(f"interrupted; resume with: {go_on}", event="interrupted", exit_code=INTERRUPTED)
        raise typer.Exit(INTERRUPTED)


def draw_report(run: Any) -> Path | None:
    """Write a run's report; print a note if it cannot be written."""
    try:
        return fh.write_report(run)
    except fh.MissingExtraError as error:
        tell(f"no report.html, {error}", "warning")
        return None


def present(comparison: Any, as_json: bool, quiet: bool = False, out: Path | None = None) -> None:
    """Write a comparison to a folder, and print it."""
    from fedhello.report.tables import show

    page = fh.write_comparison(comparison, out)
    if as_json:
        print(json.dumps(comparison.to_dict()))
    elif not quiet:
        show(comparison.summary, Console(markup=False), comparison.said)
        print(f"results: {page.parent / 'results.csv'}, {page}")


def say_plan(plan: Any, as_json: bool) -> None:
    """Print a plan."""
    from fedhello.report.plan import show

    if as_json:
        print(json.dumps(plan.to_dict()))
    else:
        show(plan, Console(markup=False))


def list_files(files: Sequence[Path], steps: Sequence[str]) -> None:
    """Print the written files and the next steps."""
    print("wrote " + ", ".join(map(str, files)))
    for step in steps:
        print(step)
