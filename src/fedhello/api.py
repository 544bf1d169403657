"""The library: what ``import fedhello`` offers, and all that the command line does.

    result = run("my.yaml", {"train.rounds": 5}, callbacks=[EarlyStopping(patience=3)])
    result.summary.final, result.rounds, result.predict(["a text"])

The loop by hand:

    session = prepare("my.yaml")
    for state, record in rounds(session):
        if record.test.accuracy > 0.9:
            break
    save(session, state, "runs/mine")
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedhello.comparison import tuning
from fedhello.comparison.asked import AskedMethod, asked_methods
from fedhello.comparison.baselines import with_baselines
from fedhello.comparison.contest import Contest
from fedhello.comparison.runs import load_shared
from fedhello.config.load import load_config as read_config
from fedhello.config.load import parse_config
from fedhello.config.schema import Config
from fedhello.config.text import set_key, yaml_line
from fedhello.errors import ConfigError
from fedhello.report.page import check_out
from fedhello.report.plan import Plan, describe
from fedhello.results import comparison as results
from fedhello.results.comparison import Comparison
from fedhello.results.finished import read_run
from fedhello.results.run import TrainedRun
from fedhello.runs import loop
from fedhello.runs.callbacks import Callback
from fedhello.runs.console import Progress
from fedhello.runs.folder import RunFolder, check_free, choose
from fedhello.runs.loop import RoundRecord
from fedhello.runs.progress import Progress as Place
from fedhello.runs.progress import is_finished, restore_progress, resumed_config, store_config
from fedhello.runs.runner import run_session, warn
from fedhello.runs.saved import save_state
from fedhello.runs.tracking import check_installed
from fedhello.session import Session
from fedhello.setup import prepare as setup
from fedhello.types import RunState

Source = str | Path | Mapping[str, Any] | Config | None
"""A YAML file, nested mappings, or a configuration; None is the embedded demo."""

Overrides = Mapping[str, Any] | Sequence[str]
"""Dotted keys with their values, ``{"train.rounds": 5}``, or as the command line has them, ``["train.rounds=5"]``."""


def load_config(source: Source = None, overrides: Overrides = ()) -> Config:
    """Return a checked configuration.

    Args:
        source: Where it comes from.
        overrides: What is to be otherwise; later ones win.

    Raises:
        ConfigError: If the file cannot be read, or a key, type or value is wrong.

    Example:
        >>> load_config(None, {"train.rounds": 5}).train.rounds
        5
    """
    words = _words(overrides)
    if isinstance(source, (str, Path)) or source is None:
        return read_config(None if source is None else Path(source), words)
    raw = source.model_dump(mode="json") if isinstance(source, Config) else _copy(source)
    for word in words:
        set_key(raw, word)
    return parse_config(raw)


def _words(overrides: Overrides) -> list[str]:
    if isinstance(overrides, Mapping):
        return [f"{key}={yaml_line(value)}" for key, value in overrides.items()]
    return list(overrides)


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def prepare(config: Source = None, overrides: Overrides = ()) -> Session:
    """Load, check and put together everything that a run on this machine needs; nothing is trained or written.

    Raises:
        FedhelloError: Of the kind that fits, if anything does not fit.
    """
    return setup.prepare(_local(load_config(config, overrides)))


def plan(session: Session) -> Plan:
    """Return what every tier would train, what it takes and why not more; ``print`` shows it as a table."""
    return Plan(describe(session))


def rounds(session: Session, state: RunState | None = None) -> Iterator[tuple[RunState, RoundRecord]]:
    """Play rounds one by one; the loop is yours.

    Args:
        session: What to run.
        state: Where to go on; None begins, with a head as ``model.head`` says.

    Yields:
        The state after a round, and what the round came to; ``record.test`` is None where it was not scored.

    Raises:
        QuorumError: If ``train.retries`` attempts at one round fail.
    """
    yield from loop.rounds(session, loop.start(session).state if state is None else state)


def save(session: Session, state: RunState, folder: str | Path, records: Sequence[RoundRecord] = ()) -> TrainedRun:
    """Save where rounds have led to as the folder of a run, which can be loaded, exported and gone on with.

    Args:
        session: What ran.
        state: Where it is now.
        folder: A new one.
        records: What the rounds came to, all since the start, for those who want them in the folder.

    Raises:
        RunFolderError: If the folder exists or cannot be written.
    """
    run_folder = RunFolder(Path(folder))
    save_state(session, state, run_folder, records)
    return TrainedRun(run_folder.path)


def run(
    config: Source = None,
    overrides: Overrides = (),
    *,
    callbacks: Sequence[Callback] = (),
    session: Session | None = None,
    console: Console | None = None,
) -> TrainedRun:
    """Run a federation to its end.

    Args:
        config: What to run.
        overrides: What is to be otherwise.
        callbacks: Who watches, and may end it.
        session: One that is prepared already; instead of config and overrides.
        console: Where to show progress, such as ``rich.console.Console()``; None shows none.

    Returns:
        The run, whose folder is named by ``run.out`` and ``run.name``.

    Raises:
        CallbackError: If a callback raised.
        FedhelloError: Of the kind that fits, if anything does not fit.
    """
    if session is not None and (config is not None or overrides):
        raise ConfigError("expected a session, or a configuration with overrides; found both. Give one of them.")
    checked = load_config(config, overrides) if session is None else session.config
    folder = checked_folder(checked)
    if session is None:
        say_loading(console)
        session = setup.prepare(checked)
    return _run(session, folder, callbacks, console)


def checked_folder(config: Config) -> RunFolder:
    """Return the folder of a new run, checked before anything costly, like all that a run needs besides.

    Raises:
        ConfigError: If it is no run of this machine.
        MissingExtraError: If ``run.track`` names a tool that is not installed.
        RunFolderError: If it exists, or cannot be made.
    """
    folder = choose(_local(config))
    check_free(folder)
    check_installed(config.run.track)
    return folder


def resume(
    folder: str | Path, overrides: Overrides = (), *, callbacks: Sequence[Callback] = (), console: Console | None = None
) -> TrainedRun:
    """Go on with a run that was interrupted, stopped or killed, or failed, from its last checkpoint.

    Args:
        folder: Of the run. One that has finished all its rounds is returned as it is.
        overrides: What changes nothing of the rounds, such as ``run.keep``; or more ``train.rounds``.
        callbacks: Who watches, and may end it.
        console: Where to show progress, such as ``rich.console.Console()``; None shows none.

    Raises:
        ConfigError: If an override would change a result.
        RunFolderError: If this is not the folder of a run, or its checkpoints do not fit.
    """
    return resumed(folder, overrides, callbacks=callbacks, console=console)[0]


def resumed(
    folder: str | Path, overrides: Overrides = (), *, callbacks: Sequence[Callback] = (), console: Console | None = None
) -> tuple[TrainedRun, bool]:
    """Do what ``resume`` does, and return besides whether there was nothing left to go on with."""
    run_folder = RunFolder(Path(folder))
    config = _local(resumed_config(run_folder, _words(overrides)), f"fedhello server {folder}/config.yaml")
    check_installed(config.run.track)
    with run_folder.locked():
        if is_finished(run_folder, config):
            return TrainedRun(run_folder.path), True
        say_loading(console)
        session = setup.prepare(config)
        place = restore_progress(session, run_folder, lambda line: warn(run_folder, line))
        store_config(run_folder, config)
        return _run(session, run_folder, callbacks, console, place), False


def _run(
    session: Session,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    console: Console | None,
    place: Place | None = None,
) -> TrainedRun:
    log = Progress(console, folder, quiet=console is None)
    run_session(session, folder, [log, *callbacks], place)
    return TrainedRun(folder.path)


def say_loading(console: Console | None) -> None:
    """Say what takes a while."""
    if console is not None:
        console.print("loading the model, the data and the clients …", highlight=False)


def _local(config: Config, otherwise: str = "fedhello server CONFIG") -> Config:
    """Check that a run is one of this machine."""
    if config.run.engine == "flower":
        raise ConfigError(f"expected run.engine: local; clients on other machines are reached by {otherwise}")
    return config


def load_run(folder: str | Path) -> TrainedRun:
    """Return a run that has ended, read back from its folder.

    Raises:
        ConfigError: If its configuration cannot be read.
        RunFolderError: If this is not the folder of a run, or it has not ended.
    """
    found = TrainedRun(Path(folder))
    _ = found.config, found.summary
    return found


def compare(
    config: Source = None,
    methods: Sequence[str] | str = (),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    rates: Sequence[float] | None = None,
    baselines: bool = True,
    reference: str | None = None,
    target: float | None = None,
    console: Console | None = None,
) -> Comparison | None:
    """Run several methods with several seeds and put them side by side; what is there already is kept.

    Args:
        config: What all runs share; its method lends its options to runs of the same name.
        methods: Such as ``["fed-hello", "gd-hla:pattern=triangle"]``.
        seeds: Each method runs with each of them.
        overrides: What is to be otherwise in all runs.
        out: The folder of the comparison; ``run.out``/comparison unless given.
        rates: A grid of at least five learning rates, of which each method takes the best on validation data; None
            leaves all at the configuration's.
        baselines: Whether head-only and server-only come first.
        reference: The method that others are compared with; the first unless given.
        target: The test accuracy whose price is asked for; 98 % of the best method's unless given.
        console: Where to say what is being done; None says nothing.

    Returns:
        The comparison; None if the user interrupted a run.

    Raises:
        ConfigError: If a configuration is wrong, or a method is there twice.
        RunFolderError: If a finished run of another configuration, or something else, is in the way.
    """
    shared = shared_config(config, overrides)
    asked = asked_methods(methods if isinstance(methods, str) else ",".join(methods))
    contest, notes, label = _contest(shared, asked, seeds, out, rates, baselines, reference, target)
    if console is not None:
        for note in notes:
            console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    made = contest.make(console or Console(), quiet=console is None)
    if made is None:
        return None
    runs = [read_run(run.folder) for run in made[0]]
    return results.compare(runs, reference=label, target=target, notes=notes, tuning=made[1])


def shared_config(config: Source, overrides: Overrides) -> Config:
    """Return what all runs of a comparison share; its tiers need not suit the method that it names itself."""
    words = _words(overrides)
    if config is None or isinstance(config, (str, Path)):
        return load_shared(None if config is None else Path(config), words)
    return load_config(config, overrides)


def comparison_folder(shared: Config) -> Path:
    """Return where a comparison goes that is given no folder."""
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
) -> tuple[Contest, list[str], str]:
    """Check everything before anything runs; return what is compared, notes, and the label of the reference."""
    folder = comparison_folder(shared) if out is None else Path(out)
    grid = [] if rates is None else tuning.asked_rates(",".join(map(str, rates)))
    results.check_target(target)
    everyone, notes = with_baselines(shared, asked) if baselines else (list(asked), [])
    label = results.chosen_reference(reference or asked[0].label, [method.label for method in everyone])
    check_installed(shared.run.track)
    check_out(folder)
    contest = Contest(shared, everyone, list(seeds), folder, grid)
    return contest, [*notes, *contest.check()], label


__all__ = ["compare", "load_config", "load_run", "plan", "prepare", "resume", "rounds", "run", "save"]
