"""What runs there are, and what each of them does right now; nothing is loaded, and nothing waits for a run."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from fedhello.errors import RunFolderError
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import read_round, write_round
from fedhello.runs.status import Status, read_status

DEEPEST = 3
"""How many folders deep runs are looked for: those of a comparison lie in folders of their own."""

TAIL = 2**16
"""Bytes that are read first of the end of a file; twice as many each time, until a line is whole."""

UNREADABLE = (OSError, ValueError, RecursionError)
"""What a file raises that is torn, foreign, or nested too deep."""


@dataclass(frozen=True)
class RunOverview:
    """A run, and what it does.

    Attributes:
        name: The name of its folder.
        path: The folder.
        method: The name of its method; None if its configuration cannot be read, as ``rounds``.
        status: ``running``; ``elsewhere``, on a machine that cannot be asked; ``killed``, without a result; or, once it
            has ended, ``finished``, ``interrupted``, ``stopped``, ``failed`` or ``saved``.
        round: Rounds that have finished.
        rounds: Their number.
        accuracy: The test accuracy of the result, or that scored last; None before the first.
        age: Seconds since something happened.
        now: What it does right now; None if it does nothing, or does not say so.

    Example:
        >>> _ = fh.run("my.yaml", {"run.name": "mine"})
        >>> [(run.name, run.status, run.round, run.rounds) for run in fh.list_runs("runs")]
        [('mine', 'finished', 2, 2)]
    """

    name: str
    path: str
    method: str | None
    status: str
    round: int
    rounds: int | None
    accuracy: float | None
    age: float
    now: Status | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def list_runs(folder: str | Path = "runs") -> list[RunOverview]:
    """Return the runs in a folder, the one in which something happened last first.

    Args:
        folder: The folder, which is searched three levels deep.

    Raises:
        RunFolderError: If it is no folder.

    Example:
        >>> fh.list_runs(".")
        []
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"expected a folder of runs; {folder} is none. Give another, or start a run.")
    found = []
    for one in _runs_in(folder, DEEPEST):
        with suppress(RunFolderError):  # removed since it was found
            found.append(run_overview(one))
    return sorted(found, key=lambda run: run.age)


def run_overview(folder: str | Path) -> RunOverview:
    """Return what a run does.

    Args:
        folder: The run's folder.

    Raises:
        RunFolderError: If this is not the folder of a run.

    Example:
        >>> trained = fh.run("my.yaml", {"run.name": "mine"})
        >>> fh.run_overview(trained.path).status
        'finished'
    """
    run = RunFolder(Path(folder))
    run.check()
    config, summary, now = _config(run.path), _json(run.path / "summary.json"), read_status(run.path)
    records = _last_records(run)
    last = records[0] if records else {}
    status, going = _status(summary, now)
    scored = (_inner(record, "test", "accuracy") for record in records)
    accuracy = summary.get("final") if summary else next((one for one in scored if one is not None), None)
    rounds, method = _inner(config, "train", "rounds"), _inner(config, "method", "name")
    method = method or (summary or {}).get("method")
    done = last.get("round", -1) + (last.get("failed") is None)
    return RunOverview(
        name=run.path.resolve().name,
        path=str(run.path),
        method=method if isinstance(method, str) else None,
        status=status,
        round=done,
        rounds=rounds if isinstance(rounds, int) else None if now is None else now.rounds,
        accuracy=accuracy if isinstance(accuracy, float) else None,
        age=max(time.time() - _touched(run.path, now if going else None), 0.0),
        now=now if going else None,
    )


def _last_records(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the last lines of ``rounds.jsonl`` that tell of a round, the last first; at least one if there is one."""
    found = []
    for line in _lines_from_the_end(folder.path / "rounds.jsonl"):
        try:
            record = json.loads(line)
        except UNREADABLE:
            continue
        if isinstance(record, dict) and type(record.get("round")) is int and record["round"] >= 0:
            found.append(record)
    return found


def client_results(folder: str | Path) -> list[dict[str, Any]]:
    """Return what each client of the last round came to: its update's numbers, or why it does not count.

    Args:
        folder: The run's folder.

    Raises:
        RunFolderError: If the list of clients or the last round is not valid.
    """
    run = RunFolder(Path(folder))
    records = _last_records(run)
    if not records:
        return []
    last = write_round(read_round(json.dumps(records[0]), f"the last line of {run.path / 'rounds.jsonl'}"))
    facts = {entry.client: entry.facts or {} for entry in run.clients()}
    names = {client: known.get("name") for client, known in facts.items()}
    found = [{**one, "counts": True} for one in last["clients"]]
    found += [{**one, "counts": False} for one in last["rejections"]]
    return [{"name": names.get(one["client"]), **one} for one in sorted(found, key=lambda one: one["client"])]


def _status(summary: Mapping[str, Any] | None, now: Status | None) -> tuple[str, bool]:
    """Return what a run's state is called, and whether what it says of itself is of now."""
    ended = None if summary is None else str(summary.get("status"))
    if now is None or now.phase == "ended":
        return ended or "killed", False
    alive = now.is_alive
    if alive is None and ended is None:
        return "elsewhere", True
    return (ended or "killed", False) if not alive else ("running", True)


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.yaml").is_file() and (folder / "rounds.jsonl").is_file():
        yield folder
    elif depth:
        try:
            inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        except OSError:
            return
        for name in inner:
            if not name.startswith("."):
                yield from _runs_in(folder / name, depth - 1)


def _touched(folder: Path, now: Status | None) -> float:
    """Return when something happened last, in Unix seconds."""
    if now is not None:
        return now.updated
    times = [0.0]
    for name in ("rounds.jsonl", "summary.json", "log.txt"):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _config(folder: Path) -> Any:
    try:
        return written_config((folder / "config.yaml").read_text(encoding="utf-8"))
    except UNREADABLE:
        return None


def written_config(text: str) -> Any:
    """Return what a run's ``config.yaml`` holds, to be shown: fedhello wrote it, so that it is read without its checks.

    Args:
        text: The content of the file.

    Raises:
        ValueError: If it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) else None


def _inner(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _lines_from_the_end(file: Path) -> Sequence[bytes]:
    """Return the last whole lines of a file, the last first; at least one if there is one."""
    try:
        with file.open("rb") as opened:
            size, tail = opened.seek(0, os.SEEK_END), TAIL
            while True:
                opened.seek(max(size - tail, 0))
                *lines, _ = opened.read().split(b"\n")
                whole = lines if tail >= size else lines[1:]
                if whole or tail >= size:
                    return whole[::-1]
                tail *= 2
    except OSError:
        return []
