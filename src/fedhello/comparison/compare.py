"""Compare several methods over several seeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedhello.comparison import tuning
from fedhello.comparison.asked import AskedMethod, asked_methods, asked_seeds
from fedhello.comparison.baselines import with_baselines
from fedhello.comparison.contest import Contest
from fedhello.comparison.runs import load_shared
from fedhello.config.read import Overrides, Source, words_of
from fedhello.config.schema import Config
from fedhello.method import Method
from fedhello.plugins import register_method
from fedhello.report.page import check_out
from fedhello.results import comparison as results
from fedhello.results.comparison import Comparison
from fedhello.results.finished import read_run
from fedhello.runs.tracking import check_installed
from fedhello.setup.model import Objects
from fedhello.setup.objects import words_of_objects
from fedhello.streams import show


def compare(
    config: Source = None,
    overrides: Overrides = (),
    *,
    methods: Sequence[str | Method] | str | Method,
    seeds: Sequence[int] | int = (0, 1, 2),
    model: Any = None,
    processor: Any = None,
    data: Any = None,
    validation: Any = None,
    test: Any = None,
    out: str | Path | None = None,
    rates: Sequence[float] | None = None,
    baselines: bool = True,
    reference: str | None = None,
    target: float | None = None,
    console: Console | None = None,
) -> Comparison | None:
    """Run several methods with several seeds and compare them; finished runs in the folder are kept.

    Args:
        config: The configuration of all runs. The options of its method apply to runs of the same method.
        overrides: Dotted keys with new values for all runs.
        methods: Methods such as ``["fed-hello", "gd-hla:pattern=triangle"]``; a ``Method`` object is registered.
        seeds: The seeds of each method; a single seed may be a number.
        model: A model in memory, as for ``fedhello.prepare``, like the next four. Each run uses a copy, so that all
            start from the same weights, and the model itself does not change.
        processor: Likewise.
        data: Likewise.
        validation: Likewise.
        test: Likewise.
        out: The folder of the comparison; None takes ``run.out``/comparison.
        rates: A grid of at least five learning rates, of which each method uses the best on validation data; None
            uses the configuration's for all methods.
        baselines: Whether head-only and server-only come first.
        reference: The method that others are compared with; None takes the first.
        target: The test accuracy until which costs are counted; None takes 98 % of the best method's.
        console: The output for progress; None shows none.

    Returns:
        The comparison; None if the user interrupts a run.

    Raises:
        ConfigError: If a configuration is wrong, or a method is given twice.
        RunFolderError: If the folder contains a finished run of another configuration or of other objects, or other
            files.

    Example:
        >>> found = fh.compare("my.yaml", methods=["gd-hla", "full"], seeds=[0], baselines=False, out="runs/comparison")
        >>> {label: len(runs) for label, runs in found.runs.items()}
        {'gd-hla': 1, 'full': 1}
    """
    seeds = asked_seeds(",".join(map(str, [seeds] if isinstance(seeds, int) else seeds)))
    methods = [methods] if isinstance(methods, Method) else methods
    words, given = words_of_objects(
        config, overrides, model=model, processor=processor, data=data, validation=validation, test=test
    )
    shared = shared_config(config, words)
    asked = asked_methods(methods if isinstance(methods, str) else ",".join(map(_name_of, methods)))
    contest, notes, label = _contest(shared, asked, seeds, out, rates, baselines, reference, target, given)
    if console is not None:
        for note in notes:
            show(console, f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    made = contest.make(console or Console(quiet=True), quiet=console is None)
    if made is None:
        return None
    runs = [read_run(run.folder) for run in made[0]]
    found = results.compare(runs, reference=label, target=target, notes=notes, tuning=made[1])
    return replace(found, folder=contest.out)


def _name_of(method: str | Method) -> str:
    return method if isinstance(method, str) else register_method(method).name


def shared_config(config: Source, overrides: Overrides) -> Config:
    """Return the configuration of all runs of a comparison; its tiers need not fit its own method."""
    return load_shared(config, words_of(overrides))


def comparison_folder(shared: Config) -> Path:
    """Return the default folder of a comparison."""
    return Path(shared.run.out) / "comparison"


def _contest(
    shared: Config,
    asked: Sequence[AskedMethod],
    seeds: Sequence[int],
    out: str | Path | None,
    rates: Sequence[float] | None,
    baselines: bool,
    reference: str | None,
    target: float | None,
    given: Objects,
) -> tuple[Contest, list[str], str]:
    """Check everything before any run; return the contest, notes, and the label of the reference."""
    folder = comparison_folder(shared) if out is None else Path(out)
    grid = [] if rates is None else tuning.asked_rates(",".join(map(str, rates)))
    results.check_target(target)
    everyone, notes = with_baselines(shared, asked) if baselines else (list(asked), [])
    label = results.chosen_reference(reference or asked[0].label, [method.label for method in everyone])
    check_installed(shared.run.track)
    check_out(folder)
    contest = Contest(shared, everyone, list(seeds), folder, grid, given)
    return contest, [*notes, *contest.check()], label
