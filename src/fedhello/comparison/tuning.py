"""Tune the learning rate of each method on validation data, so that every method is compared at its own."""

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
"""The default grid."""

FEWEST = 5
"""The least number of rates in a grid, so that the best is seldom the first or the last."""


def asked_rates(text: str) -> list[float]:
    """Return the grid in text such as ``5e-4,1e-3,2e-3,5e-3,1e-2``, ascending.

    Raises:
        ConfigError: If there are fewer than five different rates, or one is not a rate.
    """
    try:
        rates = sorted({float(word) for word in text.split(",")})
    except ValueError:
        rates = []
    if len(rates) < FEWEST or not all(0 < rate < float("inf") for rate in rates):
        raise ConfigError(
            f"expected rates to be at least {FEWEST} different learning rates above 0, such as {RATES}; found {text!r}"
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
    """Return the planned tuning runs: every method at every rate, with one seed, over half the rounds.

    Args:
        base: The configuration that all runs share.
        methods: The methods to tune.
        seed: The seed of all tuning runs.
        rates: The grid.
        out: The folder of the comparison.
        given: The model and the data, where these are objects.

    Raises:
        ConfigError: If a configuration is wrong or a method is there twice.
        RunFolderError: If a finished run of another configuration, or something else, is in the way.
    """
    # The last model is scored: with model selection, all rates give the start if none is surely better.
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

    A run in which a round misses its quorum is left unfinished: training at its rate diverges.

    Returns:
        Whether no run was interrupted.

    Raises:
        FedhelloError: Of the kind that a run failed with otherwise, naming the run.
    """
    for i, run in enumerate(runs):
        place = f"tuning run {i + 1} of {len(runs)}: {run.title}"
        try:
            summary = finished(run, place, console, quiet)
        except QuorumError as error:
            say(console, f"{place} is left out: {error}", quiet)
            continue
        if not summary.ended:
            say(console, f"{place} was interrupted; the same command keeps the finished ones", quiet)
            return False
        say(console, f"{place}: validation accuracy {validation_accuracy(run.folder):.3f}", quiet)
    return True


def validation_accuracy(folder: RunFolder) -> float:
    """Return the mean validation accuracy of a run's last five scored rounds."""
    scored = [record.validation.accuracy for record in folder.rounds() if record.validation is not None]
    return fmean(scored[-LAST:])


def read_tuning(runs: Sequence[PlannedRun]) -> Tuning:
    """Return the tuning: the best rate of each method.

    Raises:
        ConfigError: If no run of a method finished.
    """
    found: dict[str, dict[float, float | None]] = {}
    for run in runs:
        done = (run.folder.path / "summary.json").is_file() and run.folder.summary().ended
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
        label: The method's label, for messages.
        accuracies: Rate, ascending → validation accuracy; None if the run did not finish.

    Raises:
        ConfigError: If no run finished.
    """
    there = [(-accuracy, rate) for rate, accuracy in accuracies.items() if accuracy is not None]
    if not there:
        raise ConfigError(
            f"expected a learning rate among rates at which {label} trains; all of its tuning runs failed. Give lower "
            "rates."
        )
    rates, rate = tuple(accuracies), min(there)[1]
    return TunedRate(rate, rate in (rates[0], rates[-1]), tuple(accuracies.values()))
