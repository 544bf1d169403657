"""The library's functions to prepare, plan, run, resume, save and load runs.

    result = run("my.yaml", {"train.rounds": 5}, callbacks=[EarlyStopping(patience=3)])
    result.summary.final, result.rounds, result.predict(["a text"])

With your own loop:

    session = prepare("my.yaml")
    for state, record in rounds(session):
        if record.test.accuracy > 0.9:
            break
    save(session, state, "runs/mine")         # resume("runs/mine") works if start and records are given
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedhello.config.load import parse_config
from fedhello.config.read import Overrides, Source, words_of
from fedhello.config.schema import Config
from fedhello.config.stored import end_of, first_rate, resumed_config, stored_config
from fedhello.data.memory import MEMORY, memory_source
from fedhello.errors import ConfigError, RunFolderError
from fedhello.method import Method
from fedhello.report.plan import Plan
from fedhello.report.plan_file import PlanFile
from fedhello.report.planning import make_plan
from fedhello.results.run import TrainedRun
from fedhello.runs import loop
from fedhello.runs.callbacks import Callback, checked_callbacks, loading_teller
from fedhello.runs.console import Progress
from fedhello.runs.folder import RunFolder, check_free, choose
from fedhello.runs.going_on import check_rate, has_ended
from fedhello.runs.kept_start import kept_start
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.progress import Progress as Place
from fedhello.runs.progress import restore_progress
from fedhello.runs.runner import run_session, warn
from fedhello.runs.saved import save_state
from fedhello.runs.tracking import check_installed
from fedhello.session import Session
from fedhello.setup import prepare as setup
from fedhello.setup.model import Objects
from fedhello.setup.objects import check_processor, given_held_out, with_objects
from fedhello.state import RunState
from fedhello.streams import show
from fedhello.types import Rejection, Update


def prepare(
    config: Source = None,
    overrides: Overrides = (),
    *,
    model: Any = None,
    processor: Any = None,
    data: Any = None,
    validation: Any = None,
    test: Any = None,
    method: Method | None = None,
) -> Session:
    """Load, check and assemble everything that a run on this machine needs; nothing is trained or written.

    Args:
        config: The configuration: a YAML file, nested mappings or a ``Config``; None is the embedded demo.
        overrides: Dotted keys with new values.
        model: A transformers model instead of ``model.name``: a classifier or a language model, or a model without a
            head with ``model.pooling``. It is not copied: the adapter is injected into it.
        processor: The tokenizer or image processor of that model.
        data: A data set in memory instead of ``data.name``, or a list of them, one per client. A data set is a list of
            rows (mappings, or pairs of input and label), a mapping of columns, a ``datasets.Dataset``, a
            ``torch.utils.data.Dataset``, or a pandas table; ``data.text``, ``data.label`` and the others name its
            columns.
        validation: The server's validation data, in the same forms; None takes a share of the data.
        test: The server's test data, likewise.
        method: A method that is not registered, instead of ``method.name``; overrides such as ``method.decay`` set its
            options.

    Raises:
        FedhelloError: Of the matching kind, if the configuration, the model, the data or the method is not usable.

    Example:
        >>> session = fh.prepare("my.yaml", {"train.rounds": 3})
        >>> session.federation.num_blocks, [tier.blocks for tier in session.federation.tiers]
        (3, [1, 3])
    """
    checked, given = with_objects(
        config,
        overrides,
        model=model,
        processor=processor,
        data=data,
        validation=validation,
        test=test,
        method=method,
    )
    return setup.prepare(_local(checked), given)


def plan(session: Session) -> Plan:
    """Return each tier's allocation, its predicted cost and what limits it; ``print`` shows a table.

    Args:
        session: The session; it is not changed.

    Example:
        >>> print(fh.plan(fh.prepare("my.yaml")))  # doctest: +ELLIPSIS
        fed-hello on tiny, 3 blocks: 2 rounds of 2 clients; each downloads ... per round
        ...
    """
    return make_plan(session)


def start(session: Session) -> RunStart:
    """Return the start of a run: the state before round 0 with its head, and its scores. It can be called again.

    Args:
        session: The session to start.

    Example:
        >>> start = fh.start(fh.prepare("my.yaml"))
        >>> start.state.round, 0 <= start.test.accuracy <= 1
        (0, True)
    """
    return loop.start(session)


def rounds(
    session: Session, state: RunState | None = None, *, watch: Callable[[Update | Rejection], None] | None = None
) -> Iterator[tuple[RunState, RoundRecord]]:
    """Run rounds one by one, in your own loop.

    Args:
        session: The session to run.
        state: The state to continue from: ``start(session).state`` or that of an earlier round; None starts a new run.
            With ``dataclasses.replace(state, lr=…)``, clients train with that learning rate from there on.
            ``train.stop`` and ``train.target`` are for ``run``: your loop ends where you end it.
        watch: Called with each client's reply before it is aggregated: an ``Update``, whose tensors must not be
            changed, or a ``Rejection`` with its reason.

    Yields:
        The state after a round, and the round's record; ``record.test`` is None if the state is not scored.

    Raises:
        ConfigError: If the state's ``lr`` is no number above 0.
        QuorumError: If ``train.retries`` attempts at one round fail.

    Example:
        >>> for state, record in fh.rounds(fh.prepare("my.yaml")):
        ...     print(state.round, [client.client for client in record.report.clients])
        1 [0, 1]
        2 [2, 3]
    """
    yield from loop.rounds(session, loop.start(session).state if state is None else state, watch)


def save(
    session: Session,
    state: RunState,
    folder: str | Path,
    *,
    start: RunStart | None = None,
    records: Sequence[RoundRecord] = (),
) -> TrainedRun:
    """Save a state as a run folder, which can be loaded, used and exported.

    Args:
        session: The session of the rounds.
        state: The state to save.
        folder: The path of a new folder.
        start: The result of ``start(session)``. With it and all records, ``resume`` can continue the run.
        records: The record of every round since the start.

    Raises:
        ConfigError: If the records do not match the rounds of the state.
        RunFolderError: If the folder exists or cannot be written.

    Example:
        >>> session = fh.prepare("my.yaml")
        >>> state, record = next(fh.rounds(session))
        >>> fh.save(session, state, "runs/by-hand").summary.status
        'saved'
    """
    run_folder = RunFolder(Path(folder))
    save_state(session, state, run_folder, start, records)
    return TrainedRun(run_folder.path, session=session)


def run(
    config: Source = None,
    overrides: Overrides = (),
    *,
    callbacks: Sequence[Callback] = (),
    session: Session | None = None,
    console: Console | None = None,
    **objects: Any,
) -> TrainedRun:
    """Run a federation to its end.

    Args:
        config: The configuration: a YAML file, nested mappings or a ``Config``; None is the embedded demo.
        overrides: Dotted keys with new values.
        callbacks: Callbacks that observe the run and may stop it.
        session: A prepared session, instead of config and overrides.
        console: Where to show progress, such as ``rich.console.Console()``; None shows none.
        objects: Model, processor, data, validation, test and method, as ``prepare`` takes them.

    Returns:
        The run; its folder is set by ``run.out`` and ``run.name``.

    Raises:
        CallbackError: If a callback raised.
        ConfigError: If ``callbacks`` is not a list of callbacks.
        FedhelloError: Of the matching kind, for any other error that the user can fix.

    Example:
        >>> result = fh.run("my.yaml", {"train.rounds": 2, "run.name": "mine"})
        >>> result.summary.status, len(result.rounds), result.path.name
        ('finished', 2, 'mine')
    """
    callbacks = checked_callbacks(callbacks)
    if session is not None and (config is not None or overrides or objects):
        raise ConfigError("expected a session, or a configuration and objects; found both. Give one of them.")
    if session is not None:
        folder = checked_folder(parse_config(session.config))
        return _run(session, folder, [Progress(console, folder), *callbacks])
    wanted = ("model", "processor", "data", "validation", "test", "method")
    checked, given = with_objects(config, overrides, **{name: objects.pop(name, None) for name in wanted})
    if objects:
        raise TypeError(f"run() got an unexpected keyword argument {next(iter(objects))!r}")
    folder = checked_folder(checked)
    say_loading(console)
    callbacks = [Progress(console, folder), *callbacks]
    session = setup.prepare(checked, given, tell=loading_teller(callbacks))
    return _run(session, folder, callbacks)


def checked_folder(config: Config) -> RunFolder:
    """Return the folder of a new run, after the checks that need neither model nor data.

    Raises:
        ConfigError: If ``run.engine`` is ``flower``.
        MissingExtraError: If ``run.track`` names a tool that is not installed.
        RunFolderError: If the folder exists, or cannot be created.
    """
    run = _local(config).run
    folder = choose(Path(run.out), run.name, config.method.name, run.seed)
    check_free(folder)
    check_installed(config.run.track)
    return folder


def resume(
    folder: str | Path,
    overrides: Overrides = (),
    *,
    changed_data: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    model: Any = None,
    processor: Any = None,
    data: Any = None,
    validation: Any = None,
    test: Any = None,
) -> TrainedRun:
    """Continue a run that was interrupted, stopped or killed, or failed, from its last checkpoint; or add rounds to it.

    Args:
        folder: The run's folder. A run that has come to its end is returned unchanged.
        overrides: Keys that affect no round, such as ``run.keep``, and those that hold from here on: ``train.rounds``,
            where ``"+10"`` is ten more, ``train.lr``, ``train.stop`` and ``train.target``.
        changed_data: Go on although the data are not those that the run started with; the summary has a note on it.
        callbacks: Callbacks that observe the run and may stop it.
        console: Where to show progress, such as ``rich.console.Console()``; None shows none.
        model: The model that the run started with, if that was an object, as for ``prepare``; without an adapter.
        processor: Likewise.
        data: Likewise.
        validation: Likewise.
        test: Likewise.

    Returns:
        The run; its ``session`` is None if no rounds were left.

    Raises:
        ConfigError: If an override would change a result, or change nothing, since the run has ended.
        DataError: If the data or the labels are not those that the run started with.
        RunFolderError: If this is not the folder of a run, or its checkpoints do not match it.

    Example:
        >>> stopped = fh.run("my.yaml", {"run.name": "mine"}, callbacks=[fh.EarlyStopping(patience=1, min_delta=1)])
        >>> stopped.summary.status, stopped.summary.rounds
        ('stopped', 1)
        >>> fh.resume("runs/mine").summary.rounds
        2
    """
    callbacks = checked_callbacks(callbacks)
    given = _given_again(folder, model, processor, data, validation, test)
    run_folder = RunFolder(Path(folder))
    found, lr = resumed_config(run_folder.path, words_of(overrides))
    config = _local(found, f"fedhello server {folder}/config.yaml")
    check_installed(config.run.track)
    _check_can_go_on(run_folder)
    with run_folder.locked():
        if has_ended(run_folder, end_of(stored_config(run_folder.path)), end_of(config)):
            check_rate(run_folder, first_rate(config), lr)
            return TrainedRun(run_folder.path, given)
        say_loading(console)
        callbacks = [Progress(console, run_folder), *callbacks]
        start = kept_start(run_folder, config.model.adapter, config.model.head)
        session = setup.prepare(config, given, run_folder.labels(), loading_teller(callbacks), start)
        place = restore_progress(session, run_folder, lambda line: warn(run_folder, line), changed_data, lr)
        run_folder.write_config(session.config_yaml)
        return _run(session, run_folder, callbacks, place)


def _given_again(folder: str | Path, model: Any, processor: Any, data: Any, validation: Any, test: Any) -> Objects:
    """Return the objects that a run started with, after comparing them with the run's configuration.

    Raises:
        ConfigError: If an object is given for something that the configuration names, or validation or test data come
            without data.
    """
    config = stored_config(Path(folder))
    for what, one, name in (("model", model, config.model.name), ("data", data, config.data.name)):
        if one is not None and name != MEMORY:
            raise ConfigError(
                f"expected no {what}, since the configuration of {folder} names it: {name}; found an object. Leave it "
                "out."
            )
    held_out = given_held_out(data, validation, test)
    check_processor(model, processor)
    source = None if data is None else memory_source(data, config.data.columns, held_out)
    return Objects(model, processor, source)


def _check_can_go_on(folder: RunFolder) -> None:
    """Check that a run has the start and records that resuming needs."""
    saved = (folder.path / "summary.json").is_file() and folder.summary().status == "saved"
    if saved and not folder.checkpoints.is_dir():
        raise RunFolderError(
            f"expected a run that can be resumed; {folder.path} was saved without its start and records. Save with "
            "both: fedhello.save(session, state, folder, start=…, records=…)."
        )


def _run(session: Session, folder: RunFolder, callbacks: Sequence[Callback], place: Place | None = None) -> TrainedRun:
    run_session(session, folder, [PlanFile(folder), *callbacks], place)
    return TrainedRun(folder.path, session=session)


def say_loading(console: Console | None) -> None:
    """Print that loading has started."""
    if console is not None:
        show(console, "loading the model, the data and the clients …", highlight=False)


def _local(config: Config, otherwise: str = "fedhello server CONFIG") -> Config:
    """Check that ``run.engine`` is not ``flower``."""
    if config.run.engine == "flower":
        raise ConfigError(f"expected run.engine: local; found flower. Start clients on other machines with {otherwise}")
    return config


def load_run(
    folder: str | Path,
    *,
    model: Any = None,
    processor: Any = None,
    data: Any = None,
    validation: Any = None,
    test: Any = None,
) -> TrainedRun:
    """Return a run that has ended, read from its folder; no code that the folder names is run.

    Args:
        folder: The run's folder.
        model: The model of the run, as for ``resume``.
        processor: Likewise.
        data: Likewise; ``evaluate`` needs it.
        validation: Likewise.
        test: Likewise.

    Raises:
        ConfigError: If its configuration cannot be read, or an object is given for something that it names.
        RunFolderError: If this is not the folder of a run, or it has not ended.

    Example:
        >>> _ = fh.run("my.yaml", {"run.name": "mine"})
        >>> trained = fh.load_run("runs/mine")  # later, in another process
        >>> sorted(trained.summary.labels)
        ['fruit', 'metal']
    """
    found = TrainedRun(Path(folder), _given_again(folder, model, processor, data, validation, test))
    _ = found.summary
    return found
