"""A learning rate for each method, chosen on validation data alone, so that none is compared at another's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console

from fedhello.comparison.asked import AskedMethod
from fedhello.comparison.baselines import BASELINES
from fedhello.comparison.runs import PlannedRun, at_rate, configure, finished, planned, say
from fedhello.config.choices import rate_of
from fedhello.config.schema import Config
from fedhello.errors import ConfigError, QuorumError
from fedhello.results.compared import TunedRate, Tuning
from fedhello.runs.folder import RunFolder
from fedhello.runs.summarise import LAST
from fedhello.setup.model import NAMED, Objects

TUNING = "tuning"
"""The folder of the tuning runs within the folder of a comparison."""

RATES = "5e-4,1e-3,2e-3,5e-3,1e-2,2e-2"
"""The grid unless one is given."""

FEWEST = 5
"""Rates of a grid at least: of fewer, the best would too often be the first or the last."""


def asked_rates(text: str) -> list[float]:
    """Read a grid such as ``5e-4,1e-3,2e-3,5e-3,1e-2``; return it ascending.

    Raises:
        ConfigError: If there are fewer than five different rates, or one is none.
    """
    try:
        rates = sorted({float(word) for word in text.split(",")})
    except ValueError:
        rates = []
    if len(rates) < FEWEST or not all(0 < rate < float("inf") for rate in rates):
        raise ConfigError(
            f"expected --rates to be at least {FEWEST} different learning rates above 0, such as {RATES}; found "
            f"{text!r}"
        )
    return rates


def tuned_methods(methods: Sequence[AskedMethod]) -> list[AskedMethod]:
    """Return the methods that have a learning rate."""
    return [asked for asked in methods if asked.name not in BASELINES]


def plan_tuning(
    base: Config,
    methods: Sequence[AskedMethod],
    seed: int,
    rates: Sequence[float],
    out: Path,
    given: Objects = NAMED,
) -> list[PlannedRun]:
    """Decide what each tuning run is: every method at every rate, with one seed, over half the rounds.

    Args:
        base: The configuration that all runs share.
        methods: Those that are tuned.
        seed: Of all tuning runs.
        rates: The grid.
        out: The folder of the comparison.
        given: The model and the data, where these are objects.

    Raises:
        ConfigError: If a configuration is wrong or a method is there twice.
        RunFolderError: If a finished run of another configuration, or something else, is in the way.
    """
    # Of the last model: of a selected one all rates would be worth the same where none is surely better than the start.
    train = base.train.model_copy(update={"rounds": -(-base.train.rounds // 2), "selection": "last"})
    (configs,), _ = configure(base.model_copy(update={"train": train}), methods, [seed], out, given)
    found = []
    for asked, config in zip(methods, configs, strict=True):
        for rate in rates:
            place = {"out": str(out / TUNING), "name": f"{asked.label}-lr{rate:g}"}
            there = config.model_copy(update={"run": config.run.model_copy(update=place)})
            found.append(planned(asked.label, f"{asked.label} at lr {rate:g}", at_rate(there, rate), given))
    return found


def make_tuning(runs: Sequence[PlannedRun], console: Console, quiet: bool) -> bool:
    """Make the tuning runs that are not finished yet, one after the other, and print each one's validation accuracy.

    A run in which a round lacks enough updates is left unfinished: training at its rate diverges.

    Returns:
        Whether none was interrupted.

    Raises:
        FedhelloError: Of the kind that a run failed with otherwise, naming the run.
    """
    for i, run in enumerate(runs):
        place = f"tuning run {i + 1} of {len(runs)}: {run.title}"
        try:
            summary = finished(run, place, console, quiet)
        except QuorumError as error:
            say(console, f"{place} is out: {error}", quiet)
            continue
        if summary.status != "finished":
            say(console, f"{place} was interrupted; the same command keeps those finished before it", quiet)
            return False
        say(console, f"{place}: validation accuracy {validation_accuracy(run.folder):.3f}", quiet)
    return True


def validation_accuracy(folder: RunFolder) -> float:
    """Return the mean validation accuracy of a run's last five scored rounds."""
    scored = [record.validation.accuracy for record in folder.rounds() if record.validation is not None]
    return fmean(scored[-LAST:])


def read_tuning(runs: Sequence[PlannedRun]) -> Tuning:
    """Return which rate each method's tuning runs choose.

    Raises:
        ConfigError: If no run of some method finished.
    """
    found: dict[str, dict[float, float | None]] = {}
    for run in runs:
        done = (run.folder.path / "summary.json").is_file() and run.folder.summary().status == "finished"
        accuracy = validation_accuracy(run.folder) if done else None
        found.setdefault(run.label, {})[rate_of(run.config.train)] = accuracy
    config = runs[0].config
    return Tuning(
        config.run.seed,
        config.train.rounds,
        tuple(found[runs[0].label]),
        {label: chosen_rate(label, accuracies) for label, accuracies in found.items()},
    )


def chosen_rate(label: str, accuracies: Mapping[float, float | None]) -> TunedRate:
    """Choose a method's learning rate.

    Args:
        label: Names the method in errors.
        accuracies: Rate, ascending → validation accuracy; None where the run could not be played to its end.

    Raises:
        ConfigError: If none could.
    """
    there = [(-accuracy, rate) for rate, accuracy in accuracies.items() if accuracy is not None]
    if not there:
        raise ConfigError(
            f"expected a learning rate among --rates at which {label} trains; all of its tuning runs failed. "
            "Give lower ones."
        )
    rates, rate = tuple(accuracies), min(there)[1]
    return TunedRate(rate, rate in (rates[0], rates[-1]), tuple(accuracies.values()))
