"""Runs without a folder, for the benchmarks that compare accuracies, and how results are printed."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from fedhello.config.load import load_config
from fedhello.runs.loop import RoundRecord, rounds, start
from fedhello.runs.summarise import summarise, versions
from fedhello.session import Session
from fedhello.setup.prepare import prepare


def show(result: Mapping[str, Any]) -> None:
    """Print a result as JSON, with the versions that made it."""
    json.dump({**result, "versions": versions()}, sys.stdout, indent=2, ensure_ascii=False)
    print()


def play(overrides: list[str], seed: int) -> tuple[Session, list[RoundRecord], dict[str, Any]]:
    """Run one configuration of the demo and return its session, rounds and summary."""
    begin = time.perf_counter()
    # Means over rounds need the score of each; an override may say otherwise.
    session = prepare(load_config(None, ["train.evaluate_every=1", *overrides, f"run.seed={seed}"]))
    beginning = start(session)
    results = [result for _, result in rounds(session, beginning.state)]
    seconds = time.perf_counter() - begin
    return session, results, summarise(session, beginning, results, wall_seconds=seconds, status="finished").to_dict()
