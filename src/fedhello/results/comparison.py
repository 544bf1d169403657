"""Compare finished runs, read from their folders."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from fedhello.config.diff import OWN_KEYS, differing, is_below
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.formatting import nearest
from fedhello.results.compared import ComparisonSummary, Terms, Tuning, read_terms
from fedhello.results.figures import compared_method, compared_run
from fedhello.results.finished import FinishedRun, ladders, read_run
from fedhello.results.statistics import CONFIDENCE, PairedDifference, TargetRule, default_target, paired_differences
from fedhello.runs.folder import RunFolder

RUNS = "runs"
"""The folder of the runs within the folder of a comparison."""

COMPARISON_FILE = "comparison.json"
"""File of a comparison's summary in its folder."""


METHOD_KEYS = ("method", "clients.tiers", "model.drift_compensation", "train.selection")
"""Keys in which the runs of different methods may differ: name and options of the method, the budgets in what it
allocates, and settings that methods without training or with several models do not have; see ``config.with_choices``.
"""


@dataclass(frozen=True)
class Comparison:
    """Runs to compare, with reference and target.

    Attributes:
        runs: Label → its runs, ascending by seed, in the order of the tables.
        reference: The label that the others are compared with.
        target: The test accuracy until which costs are counted, within 0 … 1; None if no method is better than the
            start, so that no costs are counted.
        target_rule: Where the target comes from, see ``fedhello.results.statistics.TargetRule``.
        start: The highest accuracy before training of all methods, each the mean over its seeds.
        notes: Notes for the reader.
        tuning: The tuning of the learning rates; None without tuning.
        said: The notes that were printed before the runs.
        folder: The folder of a comparison that was just made; else None.

    Example:
        >>> found = fh.compare("my.yaml", methods=["full"], seeds=[0, 1], baselines=False, out="runs/comparison")
        >>> [run.seed for run in found.runs["full"]], found.reference
        ([0, 1], 'full')
        >>> [(method.method, method.final.n) for method in found.summary.methods]
        [('full', 2)]
    """

    runs: Mapping[str, Sequence[FinishedRun]]
    reference: str
    target: float | None
    target_rule: TargetRule
    start: float
    notes: tuple[str, ...]
    tuning: Tuning | None = None
    said: tuple[str, ...] = ()
    folder: Path | None = None

    @cached_property
    def summary(self) -> ComparisonSummary:
        """The summary of the comparison."""
        return _summarise(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as the content of ``comparison.json``."""
        return self.summary.to_dict()


def load_comparison(
    folders: str | Path | Sequence[str | Path], *, reference: str | None = None, target: float | None = None
) -> Comparison:
    """Compare finished runs; nothing is run or written.

    Args:
        folders: Folders of runs or of comparisons, in the order in which methods are listed. A single comparison keeps
            its order, reference, target and tuning.
        reference: The method that others are compared with; None takes the first.
        target: The test accuracy until which costs are counted, within 0 … 1; None takes 98 % of the best method's, or
            what lies halfway between the start and that method's if this is more.

    Raises:
        ConfigError: If the reference is not one of the methods, the target is not an accuracy, or the runs cannot be
            compared.
        RunFolderError: If a folder is not that of a run, or none of the runs has finished.

    Example:
        >>> fh.load_comparison(["runs/full-seed0", "runs/head-only-seed0"]).summary.labels  # doctest: +SKIP
        ('full', 'head-only')
    """
    paths = [Path(one) for one in ([folders] if isinstance(folders, (str, Path)) else folders)]
    found, notes = collect(run_folders(paths))
    before = read_terms(paths[0] / COMPARISON_FILE) if len(paths) == 1 else Terms()
    return compare(
        found,
        reference=reference or before.reference,
        target=before.target if target is None else target,
        notes=notes,
        tuning=before.tuning,
    )


def is_comparison(path: Path) -> bool:
    """Whether a folder is that of a comparison: not a run, but with runs inside."""
    return not (path / "config.yaml").exists() and (path / RUNS).is_dir()


def run_folders(paths: Sequence[Path]) -> list[RunFolder]:
    """Return the folders of runs at some paths; those of a comparison in its order."""
    folders = []
    for path in paths:
        if is_comparison(path):
            order = {label: i for i, label in enumerate(read_terms(path / COMPARISON_FILE).labels)}
            inside = sorted(entry.parent for entry in (path / RUNS).glob("*/config.yaml"))
            inside.sort(key=lambda entry: order.get(entry.name.rpartition("-seed")[0], len(order)))
            folders += [RunFolder(entry) for entry in inside]
        else:
            folders.append(RunFolder(path))
    return folders


def collect(folders: Iterable[RunFolder]) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs among some folders, and a note on each run that is left out.

    Raises:
        ConfigError: If a configuration is not valid in this version.
        RunFolderError: If a folder is not that of a run, or none of the runs has finished.
    """
    runs, notes = [], []
    for folder in folders:
        stored_config(folder.path)
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
    tuning: Tuning | None = None,
) -> Comparison:
    """Return a comparison of runs.

    Args:
        runs: At least one run, in the order of their labels in tables.
        reference: A label, or a method with options; None takes the first label.
        target: An accuracy within 0 … 1; None takes that of ``default_target``.
        notes: Notes that exist already.
        tuning: The tuning of the learning rates; None without tuning.

    Raises:
        ConfigError: If the reference is not one of the labels, the target is not an accuracy, or the runs cannot be
            compared.
    """
    grouped: dict[str, list[FinishedRun]] = {}
    for run in runs:
        grouped.setdefault(run.label, []).append(run)
    for label, group in grouped.items():
        group.sort(key=lambda run: run.seed)
        _check_group(label, group)
    chosen = chosen_reference(reference, list(grouped))
    check_target(target)
    start = max(fmean(run.start for run in group) for group in grouped.values())
    best = max(fmean(run.mean_last_5 for run in group) for group in grouped.values())
    asked: tuple[float | None, TargetRule] = (target, "given")
    found, rule = asked if target is not None else default_target(best, start)
    warnings = [*_warnings(grouped, _method_keys(tuning)), *_edge_notes(tuning)]
    return Comparison(grouped, chosen, found, rule, start, (*notes, *warnings), tuning, tuple(notes))


def _method_keys(tuning: Tuning | None) -> tuple[str, ...]:
    """Return the keys in which methods may differ, with tuning also the learning rate."""
    return METHOD_KEYS if tuning is None else (*METHOD_KEYS, "train.lr")


def check_target(target: float | None) -> None:
    """Check that a target is an accuracy.

    Raises:
        ConfigError: If it is not.
    """
    if target is not None and not 0 < target <= 1:
        raise ConfigError(f"expected the target to be an accuracy above 0 and at most 1, such as 0.8; found {target:g}")


def chosen_reference(reference: str | None, labels: Sequence[str]) -> str:
    """Return the label of the given reference, else the first label.

    Raises:
        ConfigError: If the reference is not one of the labels.
    """
    if reference is None:
        return labels[0]
    if label_of(reference) not in labels:
        raise ConfigError(
            f"expected the reference to be one of {', '.join(labels)}; found {reference!r}{nearest(reference, labels)}"
        )
    return label_of(reference)


def label_of(words: str) -> str:
    """Return a label, which can name a folder, for a method with options.

    Example:
        >>> label_of("gd-hla:pattern=triangle")
        'gd-hla-pattern-triangle'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", words.strip()).strip("-.")


def _check_group(label: str, group: Sequence[FinishedRun]) -> None:
    """Check that the runs of one label differ only in the seed, so that they can be averaged."""
    for one, other in pairwise(group):
        where = f"{one.folder.path} and {other.folder.path}"
        if one.seed == other.seed:
            raise ConfigError(f"expected one run per method and seed; {where} are both {label} with seed {one.seed}")
        differences = differing([one.config, other.config])
        if differences:
            raise ConfigError(
                f"expected the runs of {label} to differ only in the seed; {where} differ in "
                f"{', '.join(differences)}. Rename a folder to list it separately."
            )


def _edge_notes(tuning: Tuning | None) -> list[str]:
    """Return notes on learning rates at the edge of the grid."""
    return [
        f"the learning rate of {label}, {found.rate:g}, is at the edge of the grid; a better one may lie beyond it"
        for label, found in (tuning.methods if tuning else {}).items()
        if found.at_edge
    ]


def _warnings(runs: Mapping[str, Sequence[FinishedRun]], method_keys: Sequence[str]) -> list[str]:
    """Return notes on differences between the runs other than the method."""
    flat = [run for group in runs.values() for run in group]
    notes = []
    others = _more_than_methods(flat, method_keys)
    if others:
        notes.append(f"the runs differ in more than the method: {', '.join(others)}; differences may come from that")
    if any(is_below(key, ["clients.tiers"]) for key in differing([run.config for run in flat])):
        notes.append("the budgets of the tiers differ between the methods; see the table of costs")
    metrics = {run.summary.metric: run.label for run in flat}
    if len(metrics) > 1:
        said = ", ".join(f"{metric} ({label})" for metric, label in metrics.items())
        notes.append(f"the accuracies are not of the same kind: {said}")
    if len({tuple(run.summary.versions.items()) for run in flat}) > 1:
        notes.append("the runs have different versions of the libraries; see the versions in each summary.json")
    over = [run.folder.path.name for run in flat if any(tier.over_budget for tier in run.summary.tiers)]
    if over:
        notes.append(f"clients were over their memory budget in {', '.join(over)}; see the notes in each summary.json")
    if len({tuple(run.seed for run in group) for group in runs.values()}) > 1:
        notes.append("the methods have different seeds; differences are computed over common seeds")
    return notes


def _more_than_methods(runs: Sequence[FinishedRun], method_keys: Sequence[str]) -> list[str]:
    """Return the keys, beyond those of methods, in which the runs' configurations differ."""
    return list(differing([run.config for run in runs], (*OWN_KEYS, *method_keys)))


def differences_from(comparison: Comparison, label: str) -> dict[str, PairedDifference]:
    """Return the difference of every other method from one, see ``paired_differences``."""
    last = {name: {run.seed: run.mean_last_5 for run in group} for name, group in comparison.runs.items()}
    base = last.pop(label)
    return paired_differences(last, base)


def _summarise(comparison: Comparison) -> ComparisonSummary:
    groups, target = comparison.runs, comparison.target
    first = next(iter(groups.values()))[0]
    rungs, flat = ladders(groups), [run for group in groups.values() for run in group]
    rows = {label: [compared_run(run, target, rungs) for run in group] for label, group in groups.items()}
    return ComparisonSummary(
        labels=tuple(groups),
        seeds=tuple(sorted({run.seed for run in flat})),
        reference=comparison.reference,
        target=target,
        target_rule=comparison.target_rule,
        start=comparison.start,
        confidence=CONFIDENCE,
        model=first.summary.model,
        data=first.config.data.name,
        metric=first.summary.metric,
        only_methods_differ=not _more_than_methods(flat, _method_keys(comparison.tuning)),
        test_samples=first.test_after(len(first.rounds)).samples,
        equal_cost=rungs,
        tuning=comparison.tuning,
        methods=tuple(compared_method(rows[label], group) for label, group in groups.items()),
        differences=differences_from(comparison, comparison.reference),
        runs=tuple(row for of_label in rows.values() for row in of_label),
        notes=comparison.notes,
        versions=first.summary.versions,
    )
