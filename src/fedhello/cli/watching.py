"""Commands that show what runs do right now."""

import json
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import fedhello as fh
from fedhello.cli.arguments import Json, Run
from fedhello.notes import is_json, tell

Folder = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="The folder of a run, or of several; ./runs if not given.")
]

Watch = Annotated[bool, typer.Option("--watch", help="Serve a page on this machine that follows the run.")]


def watch(
    run: Run,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--open/--no-browser", help="Open the page in a browser.")] = False,
    beside: Annotated[int | None, typer.Option("--beside", hidden=True)] = None,
) -> None:
    """Serve a page on this machine alone that follows a run, until Ctrl-C; the run is not touched."""
    from fedhello.watch.serving import serve_beside, serving

    if beside is not None:  # started by a run, which has opened this socket, and says on standard input what it does
        serve_beside(run, beside, sys.stdin)
        return
    if not (run / "config.yaml").is_file():
        raise fh.RunFolderError(f"expected the folder of a run; {run} has no config.yaml. Check the path.")
    with serving(run, port) as server:
        print(f"watch this run: {server.url}\nend with Ctrl-C; the run goes on", flush=True)
        if browser:
            webbrowser.open(server.url)
        threading.Event().wait()


@contextmanager
def followed(folder: Callable[[], Path], watch: bool, metrics: str | None) -> "Iterator[list[fh.Callback]]":
    """Follow a run that is about to start in every way that is asked for; yield the callbacks that this takes.

    Args:
        folder: Returns the folder that the run will have.
        watch: Whether its page is served.
        metrics: ``HOST:PORT`` for its health and figures; None for none.
    """
    from fedhello.network.metrics import monitored

    place = folder() if watch or metrics else Path()
    with watched(place if watch else None) as pages, monitored(metrics, place) as monitors:
        yield [*events(), *pages, *monitors]


def events() -> "list[fh.Callback]":
    """Return what tells the rounds where standard error is JSON."""
    if not is_json():
        return []
    from fedhello.runs.events import Events

    return [Events()]


@contextmanager
def watched(folder: Path | None) -> Iterator[list["fh.Callback"]]:
    """Serve the page of a run that is about to start, from a process of its own; not where logs are JSON.

    Args:
        folder: The folder that the run will have; None if nobody watches.

    Yields:
        Callbacks for the run, which tell the page what it does before it has a folder.
    """
    if folder is not None and is_json():
        tell(
            "--watch serves no page where the log is JSON: its address holds a secret, and logs are kept. Watch this "
            f"run from a terminal of this machine: fedhello watch {folder}",
            "warning",
            event="no page",
        )
        folder = None
    if folder is None:
        yield []
        return
    from fedhello.watch.serving import page_beside
    from fedhello.watch.teller import PageTeller

    with page_beside(folder, lambda line: print(line, file=sys.stderr, flush=True)) as say:
        yield [PageTeller(say)]


def status(run: Folder = None, as_json: Json = False) -> None:
    """Show which runs there are and what they do; of one run also its clients: who trains, who is late, who is here."""
    folder = run or Path("runs")
    if (folder / "config.yaml").is_file():
        _one(folder, as_json)
        return
    if run is None and not folder.is_dir():
        print("[]" if as_json else "no runs here: there is no folder runs; give another: fedhello status FOLDER")
        return
    found = fh.list_runs(folder)
    if as_json:
        print(json.dumps([one.to_dict() for one in found]))
    elif found:
        Console(markup=False).print(runs_table(found))
    else:
        print(f"no runs in {folder}")


def _one(folder: Path, as_json: bool) -> None:
    from fedhello.results.overview import client_results

    found = fh.run_overview(folder)
    if as_json:
        print(json.dumps({**found.to_dict(), "last_round": client_results(folder)}))
        return
    for line in overview_lines(found):
        print(line)
    tables = [table for table in (clients_table(found), connected_table(found)) if table is not None]
    for table in tables:
        Console(markup=False).print(table)


def runs_table(found: list["fh.RunOverview"]) -> Table:
    """Return runs as a table."""
    columns = ("run", "method", "status", "process", "round", "accuracy", "last change", "left")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for one in found:
        left, process = (None, "–") if one.now is None else (one.now.seconds_left, str(one.now.pid))
        table.add_row(
            one.path,
            one.method or "–",
            _state(one),
            process,
            _round(one),
            _number(one.accuracy),
            _ago(one.age),
            _time(left),
        )
    return table


def overview_lines(found: "fh.RunOverview") -> list[str]:
    """Return lines on one run."""
    from fedhello.formatting import human_bytes

    lines = [f"{found.path}: {found.method or 'method not known'}, {_state(found)}, round {_round(found)} finished"]
    lines[0] += "" if found.accuracy is None else f", test accuracy {found.accuracy:.3f}"
    now = found.now
    if now is None:
        end = "" if found.status == "finished" else f"; go on: fedhello resume {found.path}"
        return [*lines, f"last change {_ago(found.age)}{end}"]
    where = f"round {min(now.round + 1, now.rounds)} of {now.rounds}" + (
        f", attempt {now.attempt + 1}" if now.attempt else ""
    )
    lines.append(f"{where}: {now.phase}; about {_time(now.seconds_left)} left; last change {_ago(found.age)}")
    if now.best is not None:
        lines.append(f"best on validation: {now.best.validation:.3f} after round {now.best.round}")
    memory, free = human_bytes(now.memory_bytes), human_bytes(now.disk_free_bytes)
    lines.append(f"process {now.pid} on {now.host}: {memory} of memory, {free} free on its disk")
    return lines


def clients_table(found: "fh.RunOverview") -> Table | None:
    """Return the clients of the round under way; None without any."""
    if found.now is None or not found.now.clients:
        return None
    table = Table("client", "tier", "does", "step", "for", box=None, pad_edge=False, header_style="bold")
    for one in found.now.clients:
        step = f"{one.step} of {one.steps}" if one.steps else "–"
        table.add_row(_client(one), str(one.tier), one.phase, step, _time(max(found.now.updated - one.since, 0)))
    return table


def connected_table(found: "fh.RunOverview") -> Table | None:
    """Return the clients of a server, with when they were last connected; None of a run on one machine."""
    if found.now is None or not found.now.connected:
        return None
    table = Table("client of the server", "connected", box=None, pad_edge=False, header_style="bold")
    here = found.now.here
    for one in found.now.connected:
        gone = found.now.updated - one.last_seen
        table.add_row(_client(one), "yes" if one in here else f"no, for {_time(gone)}")
    return table


def _client(one: Any) -> str:
    return f"{one.client}" if one.name is None else f"{one.client} ({one.name})"


def _state(one: "fh.RunOverview") -> str:
    return f"on {one.now.host}" if one.now is not None and one.status == "elsewhere" else one.status


def _round(one: "fh.RunOverview") -> str:
    return f"{one.round} of {one.rounds}" if one.rounds is not None else str(one.round)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _time(seconds: float | None) -> str:
    from fedhello.formatting import human_seconds

    return human_seconds(seconds)


def _ago(seconds: float) -> str:
    return f"{_time(seconds)} ago"
