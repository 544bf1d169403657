"""Kill a run with ``kill -9`` at random instants, resume it, and hold the result against that of an undisturbed run.

    python benchmarks/resume.py [--kills 30] [--rounds 10] [KEY=VALUE …]

Every run is a process of the command line, on the embedded model and fewer of the demo's data. An instant is drawn
uniformly over the seconds between the appearance of the run's folder and the end of an undisturbed run, so that it also
falls into writing. A resumed run counts as identical if its adapter is so to the last byte, and ``rounds.jsonl`` and
``summary.json`` but for seconds and what the operating system says of memory. The time to resume and the share of a
round that saving takes are measured in this process. Prints JSON.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedhello.config.load import load_config
from fedhello.runs.checkpoint import Checkpoint, Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import write_round
from fedhello.runs.progress import restore_progress
from fedhello.runs.runner import run_session
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare

FEWER = ["data.samples=600", "data.proxy=20", "method.warmup=2", "method.refresh=3", "train.measure_memory=false"]


def main() -> None:
    """Read the arguments, kill, resume, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="configuration overrides, such as model.head=local")
    arguments = parser.parse_args()
    words = [*FEWER, f"train.rounds={arguments.rounds}", *arguments.overrides]
    with tempfile.TemporaryDirectory() as place:
        result = measure(Path(place), words, arguments.kills, random.Random(arguments.seed))
    print(json.dumps(result | {"rounds": arguments.rounds, "overrides": words, "versions": versions()}, indent=2))


def measure(place: Path, words: Sequence[str], kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill and resume as often as asked for, and time what that takes."""
    end(start(place, "run", *words, "run.name=undisturbed"))
    expected = outcome(place / "runs" / "undisturbed")
    timed = time_parts(place, words)
    found = []
    while len(found) < kills:
        killed = kill_and_resume(place, words, rng.random() * timed["seconds_after_the_folder"], f"killed-{len(found)}")
        if killed is not None:
            found.append(killed | {"identical": outcome(Path(killed.pop("folder"))) == expected})
            print(f"{len(found)} of {kills}: {found[-1]}", file=sys.stderr)
    return {
        "kills": kills,
        "identical": sum(kill["identical"] for kill in found),
        "most_rounds_repeated": max(kill["repeated"] for kill in found),
        **timed,
        "instants": found,
    }


def kill_and_resume(place: Path, words: Sequence[str], delay: float, name: str) -> dict[str, Any] | None:
    """Kill a run so many seconds after its folder has appeared, and resume it; None if it had ended by then."""
    folder = place / "runs" / name
    process = start(place, "run", *words, f"run.name={name}")
    while not folder.exists():
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (folder / "summary.json").exists():
        folder.rename(folder.with_name(f"{name}-ended-{time.monotonic_ns()}"))
        return None
    played = len(RunFolder(folder).rounds())
    saved = [int(file.stem.rpartition("-")[2]) for file in Checkpoints(folder / "checkpoints").files()]
    half = len(list(folder.rglob(".*.tmp")))
    end(start(place, "resume", str(folder)))
    # A round whose line was written counts, and so does the one that was running.
    repeated = played - max(saved, default=0) or 1
    return {"folder": str(folder), "delay": delay, "played": played, "repeated": repeated, "half_written": half}


def time_parts(place: Path, words: Sequence[str]) -> dict[str, Any]:
    """Play and resume in this process, and time loading, resuming and saving."""
    begin = time.perf_counter()
    session = prepare(load_config(None, [*words, f"run.out={place / 'runs'}", "run.name=timed"]))
    loading = time.perf_counter() - begin
    folder, saving = RunFolder(place / "runs" / "timed"), []
    save = Checkpoints.save

    def timed(self: Checkpoints, checkpoint: Checkpoint) -> None:
        before = time.perf_counter()
        save(self, checkpoint)
        saving.append(time.perf_counter() - before)

    Checkpoints.save = timed  # type: ignore[method-assign]
    watching = Watching()
    run_session(session, folder, [watching])
    whole = watching.times[-1] - watching.times[0]
    (folder.path / "summary.json").unlink()
    begin = time.perf_counter()
    with folder.locked():
        progress = restore_progress(session, folder, print)
        again = Watching()
        run_session(session, folder, [again], progress)
    Checkpoints.save = save  # type: ignore[method-assign]
    rounds = [record.seconds + record.evaluation_seconds for record in folder.rounds()]
    return {
        "load_seconds": loading,
        "resume_seconds_beyond_load": again.times[0] - begin,
        "save_seconds": statistics.median(saving),
        "save_share_of_a_round": statistics.median(saving) / statistics.median(rounds),
        "checkpoint_bytes": Checkpoints(folder.checkpoints).files()[0].stat().st_size,
        "seconds_after_the_folder": whole,
    }


class Watching:
    """Notes when a run begins with its rounds, and when it has ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_start(self, session: Any, start: Any) -> None:
        """Note it."""
        self.times.append(time.perf_counter())

    def on_round(self, state: Any, record: Any) -> None:
        """Note nothing."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """Note it."""
        self.times.append(time.perf_counter())


def start(place: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start the command line."""
    command = [sys.executable, "-m", "fedhello.cli.main", *words, "--quiet"]
    return subprocess.Popen(command, cwd=place, env=os.environ)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a command that must go well."""
    if process.wait():
        raise SystemExit(f"{process.args} ended with {process.returncode}")


def outcome(folder: Path) -> Any:
    """Return all of a run that must repeat."""
    files = [file for part in ("adapter", "heads", "models") for file in sorted((folder / part).glob("*"))]
    return (
        [(file.name, file.read_bytes()) for file in files],
        without_seconds([write_round(record) for record in RunFolder(folder).rounds()]),
        without_seconds(RunFolder(folder).summary().to_dict()),
    )


def without_seconds(value: Any) -> Any:
    """Return a value without what differs from run to run."""
    if isinstance(value, dict):
        kept = (key for key in value if not any(word in key for word in ("seconds", "per_second", "process_bytes")))
        return {key: without_seconds(value[key]) for key in kept}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
