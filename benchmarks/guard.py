"""Whether this working tree is slower than an earlier revision: CPU seconds of both, in turn, on this machine.

    python benchmarks/guard.py --base REVISION [--repeats 3] [--tolerance 0.1] [--case NAME …]

Each case is a process that runs a part of the library by its public interface, with the source of one of the two, and
prints its CPU seconds. The two take turns, and the ratio new / base of each turn counts; a case fails if its median is
above 1 + tolerance. Machines are noisy and differ, so no time of another day is compared. Exits with 1 if a case fails.

import     import the library and what a run needs
prepare    load model and data, calibrate, plan
rounds     six rounds of the demo, evaluation included
many       prepare 2,000 clients over 20,000 short texts on a tiny model
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

BEGIN = "import time; import fedhello as fh; from fedhello.config.load import load_config\n"
DEMO = "config = load_config(None, ['train.rounds=6', 'train.lr=2e-3'])\n"
CASES = {
    "import": BEGIN + "fh.prepare\nseconds = time.process_time()",
    "prepare": BEGIN + DEMO + "fh.prepare\nt = time.process_time(); fh.prepare(config)\n"
    "seconds = time.process_time() - t",
    "rounds": BEGIN + DEMO + "s = fh.prepare(config); t = time.process_time(); state = fh.start(s).state\n"
    "for _ in fh.rounds(s, state): pass\nseconds = time.process_time() - t",
    "many": BEGIN + "import csv, random, sys; random.seed(0)\n"
    "words = 'red green blue big small old new good bad fast slow'.split()\n"
    "rows = [(' '.join(random.choices(words, k=6)) + f' {i}', i % 2) for i in range(20000)]\n"
    "w = csv.writer(open('many.csv', 'w', newline='')); w.writerow(['text', 'label']); w.writerows(rows)\n"
    "config = load_config(None, ['data.name=many.csv', 'data.clients=2000', 'train.measure_memory=false',\n"
    "    'data.partition={kind: iid}', 'train.lr=2e-3'])\n"
    "fh.prepare\nt = time.process_time(); fh.prepare(config)\nseconds = time.process_time() - t",
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="the revision to compare with, such as a release's tag")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", base, arguments.base], check=True)
        try:
            found = {name: compared(CASES[name], base / "src", arguments.repeats) for name in arguments.case}
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", base], check=True)
    slower = [name for name, case in found.items() if case["ratio"] > 1 + arguments.tolerance]
    print(json.dumps({"benchmark": "guard", "arguments": vars(arguments), "cases": found, "slower": slower}, indent=1))
    sys.exit(bool(slower))


def compared(case: str, base: Path, repeats: int) -> dict[str, object]:
    """Return the CPU seconds of a case with each source, and the median of their ratios."""
    seconds: dict[Path, list[float]] = {base: [], ROOT / "src": []}
    for turn in range(repeats):
        for source in list(seconds)[:: 1 if turn % 2 else -1]:
            seconds[source].append(cpu_seconds(case, source))
    before, now = seconds.values()
    ratio = statistics.median(new / old for new, old in zip(now, before, strict=True))
    return {"ratio": ratio, "base_seconds": before, "seconds": now}


def cpu_seconds(case: str, source: Path) -> float:
    """Run a case in a process of its own, and return the CPU seconds that it prints."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, "-c", f"{case}\nprint('seconds', seconds)"],
            cwd=place, env={**os.environ, **offline}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(done.stdout.rpartition("seconds")[2])


if __name__ == "__main__":
    main()
