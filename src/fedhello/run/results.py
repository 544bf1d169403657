"""Finished runs side by side: what is read from their folders, and what is said of them together."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from fedhello.errors import ConfigError, RunFolderError
from fedhello.run.config import IRRELEVANT, Config
from fedhello.run.folder import RunFolder
from fedhello.run.statistics import (
    CONFIDENCE,
    default_target,
    first_at_least,
    paired_differences,
    spread,
)
from fedhello.run.tracking import flatten
from fedhello.words import nearest

RUNS = "runs"
"""The folder of the runs within the folder of a comparison."""

COMPARISON_FILE = "comparison.json"
"""What a comparison came to, in its folder."""

OWN_KEYS = ("run.seed", *IRRELEVANT)
"""What runs of one method may differ in: the seed, and what has no influence on a result."""

METHOD_KEYS = ("method", "clients.tiers")
"""What methods may differ in besides: their names and options, and budgets stated in what they allocate."""

ACCURACIES = ("start", "final", "mean_last_5", "best_on_validation")


@dataclass(frozen=True)
class Curve:
    """A run round by round; position 0 is before training, position t after t rounds.

    Attributes:
        accuracy: On the test set.
        bytes_up: All that clients have sent by then, the class sums for prototypes included.
        bytes_down: All that they have received by then.
    """

    accuracy: tuple[float, ...]
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run as it is compared.

    Attributes:
        label: What it is listed under: the folder's name without the seed.
        folder: Where it was read from.
        config: Its configuration.
        summary: See ``fedhello.run.summary.summarise``.
        rounds: One object per round, at least one.
    """

    label: str
    folder: RunFolder
    config: Config
    summary: dict[str, Any]
    rounds: list[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.config.run.seed

    @cached_property
    def curve(self) -> Curve:
        """The run round by round."""
        return Curve(
            (self.summary["start"], *(entry["test"]["accuracy"] for entry in self.rounds)),
            self._sent("bytes_up"),
            self._sent("bytes_down"),
        )

    def _sent(self, key: str) -> tuple[int, ...]:
        per_round = [sum(client[key] for client in entry["clients"]) for entry in self.rounds]
        before = self.summary[key] - sum(per_round)  # what no round accounts for was sent before the first one
        return tuple(accumulate(per_round, initial=before))


@dataclass(frozen=True)
class Comparison:
    """Runs to compare, and by what measure.

    Attributes:
        runs: Label → its runs, ascending by seed; the order is the order of the tables.
        reference: The label that the others are compared with.
        target: The accuracy whose price is asked for, within 0 … 1.
        target_given: Whether somebody chose it; else it follows from the runs.
        notes: What a reader should know.
    """

    runs: Mapping[str, Sequence[FinishedRun]]
    reference: str
    target: float
    target_given: bool
    notes: tuple[str, ...]


def read_run(folder: RunFolder) -> FinishedRun:
    """Read a finished run.

    Raises:
        ConfigError: If its configuration is not one of this version.
        RunFolderError: If the folder holds no finished run with at least one round.
    """
    config, summary = folder.config(), folder.summary()
    if summary.get("status") != "finished":
        raise RunFolderError(f"expected a finished run; {folder.path} is {summary.get('status')}")
    try:
        rounds = folder.rounds()
    except (OSError, ValueError) as error:
        raise RunFolderError(f"expected one JSON object per line in {folder.path / 'rounds.jsonl'}; {error}") from error
    if not rounds or len(rounds) != summary["rounds"]:
        raise RunFolderError(
            f"expected the {summary['rounds']} rounds of the summary in {folder.path}; rounds.jsonl has {len(rounds)}"
        )
    return FinishedRun(
        folder.path.resolve().name.removesuffix(f"-seed{config.run.seed}"), folder, config, summary, rounds
    )


def is_comparison(path: Path) -> bool:
    """Whether a folder is one of a comparison: no run itself, but with runs."""
    return not (path / "config.yaml").exists() and (path / RUNS).is_dir()


def run_folders(paths: Sequence[Path]) -> list[RunFolder]:
    """Return the runs' folders behind some paths, those of a comparison in the order in which it lists them."""
    folders = []
    for path in paths:
        if is_comparison(path):
            labels = earlier(path).get("labels", [])
            order = {label: i for i, label in enumerate(labels)}
            inside = sorted(entry.parent for entry in (path / RUNS).glob("*/config.yaml"))
            inside.sort(key=lambda entry: order.get(entry.name.rpartition("-seed")[0], len(order)))
            folders += [RunFolder(entry) for entry in inside]
        else:
            folders.append(RunFolder(path))
    return folders


def earlier(path: Path) -> dict[str, Any]:
    """Return what a comparison has come to before, as ``describe`` says it; empty where there is nothing.

    Raises:
        RunFolderError: If it is no JSON.
    """
    file = path / COMPARISON_FILE
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise RunFolderError(f"expected JSON in {file}; {error}. Remove it to start from the runs alone.") from error
    return found


def collect(folders: Iterable[RunFolder]) -> tuple[list[FinishedRun], list[str]]:
    """Read all finished runs among some folders; return them with a note on each that is left out.

    Raises:
        ConfigError: If a configuration is not one of this version.
        RunFolderError: If a folder is none of a run, or none of the runs has finished.
    """
    runs, notes = [], []
    for folder in folders:
        folder.config()
        try:
            runs.append(read_run(folder))
        except RunFolderError as error:
            notes.append(f"{folder.path.name} is left out: {error}")
    if not runs:
        raise RunFolderError(f"expected at least one finished run; {notes[0] if notes else 'there is no run'}")
    return runs, notes


def compare(
    runs: Sequence[FinishedRun],
    *,
    reference: str | None = None,
    target: float | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Put runs side by side.

    Args:
        runs: At least one, in the order in which their labels shall be listed.
        reference: A label, or the method as it was asked for; None takes the first.
        target: An accuracy within 0 … 1; None takes 98 % of the best label's mean_last_5.
        notes: What is known already.

    Raises:
        ConfigError: If the reference is none of the labels, the target is no accuracy, or runs do not go together.
    """
    grouped: dict[str, list[FinishedRun]] = {}
    for run in runs:
        grouped.setdefault(run.label, []).append(run)
    for label, group in grouped.items():
        group.sort(key=lambda run: run.seed)
        _check_group(label, group)
    chosen = chosen_reference(reference, list(grouped))
    check_target(target)
    accuracies = {label: [run.summary["mean_last_5"] for run in group] for label, group in grouped.items()}
    return Comparison(
        grouped,
        chosen,
        default_target(accuracies) if target is None else target,
        target is not None,
        (*notes, *_warnings(grouped)),
    )


def check_target(target: float | None) -> None:
    """Check that a target is an accuracy.

    Raises:
        ConfigError: If it is not.
    """
    if target is not None and not 0 < target <= 1:
        raise ConfigError(f"expected the target to be an accuracy above 0 and at most 1, such as 0.8; found {target:g}")


def chosen_reference(reference: str | None, labels: Sequence[str]) -> str:
    """Return the label of the reference: the one asked for, else the first.

    Raises:
        ConfigError: If there is none such.
    """
    if reference is None:
        return labels[0]
    if label_of(reference) not in labels:
        raise ConfigError(
            f"expected the reference to be one of {', '.join(labels)}; found {reference!r}{nearest(reference, labels)}"
        )
    return label_of(reference)


def label_of(words: str) -> str:
    """Make a method with options, as it was asked for, into a label that may name a folder.

    Example:
        >>> label_of("gd-hla:pattern=triangle")
        'gd-hla-pattern-triangle'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", words.strip()).strip("-.")


def differing(configs: Iterable[Config], ignored: Sequence[str] = OWN_KEYS) -> dict[str, list[Any]]:
    """Return the dotted keys in which configurations differ, each with every configuration's value."""
    flat = [flatten(config.model_dump(mode="json"), ".") for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = {key: [one.get(key) for one in flat] for key in keys if not _below(key, ignored)}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)


def _check_group(label: str, group: Sequence[FinishedRun]) -> None:
    """Check that runs under one label are one method with different seeds, so that their mean has a meaning."""
    for one, other in pairwise(group):
        where = f"{one.folder.path} and {other.folder.path}"
        if one.seed == other.seed:
            raise ConfigError(f"expected one run per method and seed; {where} are both {label} with seed {one.seed}")
        differences = differing([one.config, other.config])
        if differences:
            raise ConfigError(
                f"expected the runs of {label} to differ in nothing but the seed; {where} differ in "
                f"{', '.join(differences)}. Rename a folder to list it apart."
            )


def _warnings(runs: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """Say in what the runs differ that is not the method."""
    flat = [run for group in runs.values() for run in group]
    notes = []
    others = _more_than_methods(flat)
    if others:
        notes.append(f"the runs differ in more than the method: {', '.join(others)}; read the differences with that")
    if any(_below(key, ["clients.tiers"]) for key in differing([run.config for run in flat])):
        notes.append("the budgets of the tiers differ between the methods; they stand in the table of peak memory")
    metrics = {run.summary["metric"]: run.label for run in flat}
    if len(metrics) > 1:
        said = ", ".join(f"{metric} ({label})" for metric, label in metrics.items())
        notes.append(f"the accuracies are not of the same kind: {said}")
    if len({tuple(run.summary.get("versions", {}).items()) for run in flat}) > 1:
        notes.append(
            "the runs were made with different versions of the libraries; see the versions in each summary.json"
        )
    if len({tuple(run.seed for run in group) for group in runs.values()}) > 1:
        notes.append("the methods have different seeds; differences are taken over the seeds that both have")
    return notes


def _more_than_methods(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the keys, beyond those of methods, in which the runs' configurations differ."""
    return list(differing([run.config for run in runs], (*OWN_KEYS, *METHOD_KEYS)))


def describe(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison in numbers, JSON-ready: accuracies within 0 … 1, bytes and seconds."""
    groups = comparison.runs
    last = {label: {run.seed: run.summary["mean_last_5"] for run in group} for label, group in groups.items()}
    others = {label: values for label, values in last.items() if label != comparison.reference}
    first = next(iter(groups.values()))[0]
    return {
        "labels": list(groups),
        "seeds": sorted({run.seed for group in groups.values() for run in group}),
        "reference": comparison.reference,
        "target": comparison.target,
        "target_given": comparison.target_given,
        "confidence": CONFIDENCE,
        "model": first.summary["model"],
        "data": first.config.data.name,
        "metric": first.summary["metric"],
        "only_methods_differ": not _more_than_methods([run for group in groups.values() for run in group]),
        "test_samples": first.rounds[0]["test"]["samples"],
        "methods": [_method(label, group, comparison.target) for label, group in groups.items()],
        "differences": [
            {"method": label, **asdict(difference)}
            for label, difference in paired_differences(others, last[comparison.reference]).items()
        ],
        "runs": [_row(run, comparison.target) for group in groups.values() for run in group],
        "notes": list(comparison.notes),
        "versions": first.summary.get("versions", {}),
    }


def _row(run: FinishedRun, target: float) -> dict[str, Any]:
    """Return one run in numbers; what it never reached is None."""
    summary, curve = run.summary, run.curve
    at = first_at_least(curve.accuracy, target)
    peaks = {f"peak_bytes_tier_{g}": tier["measured_peak_bytes"] for g, tier in enumerate(summary["tiers"])}
    return {
        "method": run.label,
        "seed": run.seed,
        "rounds": summary["rounds"],
        **{key: summary[key] for key in ACCURACIES},
        "bytes_up": summary["bytes_up"],
        "bytes_down": summary["bytes_down"],
        "target": target,
        "rounds_to_target": at,
        "bytes_up_to_target": None if at is None else curve.bytes_up[at],
        "bytes_down_to_target": None if at is None else curve.bytes_down[at],
        "wall_seconds": summary["wall_seconds"],
        "train_seconds": summary["train_seconds"],
        **peaks,
    }


def _method(label: str, group: Sequence[FinishedRun], target: float) -> dict[str, Any]:
    """Return one method in numbers over its seeds."""
    rows = [_row(run, target) for run in group]

    def mean(key: str) -> float | None:
        return spread([row[key] for row in rows]).mean

    return {
        "method": label,
        "seeds": [run.seed for run in group],
        **{key: asdict(spread([row[key] for row in rows])) for key in ACCURACIES},
        **{key: mean(key) for key in ("bytes_up", "bytes_down", "wall_seconds", "train_seconds")},
        "reached_target": sum(row["rounds_to_target"] is not None for row in rows),
        **{key: mean(key) for key in ("rounds_to_target", "bytes_up_to_target", "bytes_down_to_target")},
        "domains": {
            name: asdict(spread([run.summary["domains"][name] for run in group if "domains" in run.summary]))
            for name in group[0].summary.get("domains", {})
        },
        "tiers": [_tier(tiers) for tiers in zip(*(run.summary["tiers"] for run in group), strict=True)],
    }


def _tier(tiers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one tier over a method's seeds: its budget, and the largest peak of all seeds."""
    peaks = [tier["measured_peak_bytes"] for tier in tiers if tier["measured_peak_bytes"] is not None]
    return {"budget": tiers[0]["budget"], "peak_bytes": max(peaks, default=None)}
