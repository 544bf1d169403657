"""Run several methods with several seeds, each in its own run folder; finished runs are kept."""

import copy
import gc
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.status import Status

from fedhello.comparison.asked import AskedMethod
from fedhello.config.diff import differing
from fedhello.config.found import as_loaded, with_evaluations
from fedhello.config.load import IRRELEVANT, parse_config
from fedhello.config.read import Source, load_config
from fedhello.config.schema import Config, MethodConfig, TierConfig
from fedhello.config.section import ConfigMapping
from fedhello.config.settings import model_settings
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, FedhelloError, MissingExtraError, RunFolderError
from fedhello.methods import METHODS
from fedhello.model.blocks import find_blocks
from fedhello.report.plan_file import PlanFile
from fedhello.report.run_page import write_report
from fedhello.results.comparison import RUNS
from fedhello.runs.callbacks import Callback
from fedhello.runs.console import Progress
from fedhello.runs.folder import RunFolder, check_free
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.runner import run_session
from fedhello.runs.summary import Summary
from fedhello.session import Session
from fedhello.setup.model import NAMED, Objects, load_model
from fedhello.setup.objects import STAND_IN
from fedhello.setup.prepare import prepare
from fedhello.state import RunState
from fedhello.streams import show

Kind = Literal["blocks", "rank"]
"""The counts of a tier's budget."""

KINDS: Mapping[str, Kind | None] = {"blocks": "blocks", "ranks": "rank", "either": None}
"""What a method allocates → the count that its tiers need, if any."""

OTHER: Mapping[Kind, Kind] = {"blocks": "rank", "rank": "blocks"}

Before = Literal["new", "finished", "unfinished"]
"""The state of a planned run's folder."""


@dataclass(frozen=True)
class PlannedRun:
    """One method with one seed, or at one learning rate.

    Attributes:
        label: The method's label.
        title: The run's name in messages.
        config: Its configuration.
        folder: Its folder.
        before: The state of the folder.
        given: The model and the data, if these are objects.
    """

    label: str
    title: str
    config: Config
    folder: RunFolder
    before: Before
    given: Objects = NAMED


def load_shared(source: Source, overrides: Sequence[str]) -> Config:
    """Read the configuration that all runs share.

    Its tiers need not fit its own method, since they are translated for each method. Tiers and method are therefore
    checked separately, each with a stand-in for the other.

    Raises:
        ConfigError: If the file cannot be read, or a key, type or value is wrong.
    """
    method = load_config(source, [*overrides, f"clients={json.dumps(STAND_IN)}"]).method
    undemanding = next(name for name, row in METHODS.items() if row.allocates == "either")
    config = load_config(source, [*overrides, f"method={{name: {undemanding}}}"]).model_copy(update={"method": method})
    # Curves can be compared, and a target's round be read off them, where all are scored after the same rounds.
    return with_evaluations(config, 1) if config.train.evaluate_every == "auto" else config


def plan_runs(
    base: Config,
    methods: Sequence[AskedMethod],
    seeds: Sequence[int],
    out: Path,
    rates: Mapping[str, float] | None = None,
    given: Objects = NAMED,
) -> tuple[list[PlannedRun], list[str]]:
    """Return the planned runs with the state of their folders; nothing is trained or written.

    Args:
        base: The configuration that all runs share. The options of its method count for that method only.
        methods: The methods to compare.
        seeds: The seeds of each method.
        out: The folder of the comparison.
        rates: Label → learning rate, for tuned methods.
        given: The model and the data, if these are objects.

    Returns:
        The runs, all methods with one seed before the next seed, and notes for the user.

    Raises:
        ConfigError: If a configuration is wrong or a method is given twice.
        RunFolderError: If the folder contains a finished run of another configuration, or other files.
    """
    configs, notes = configure(base, methods, seeds, out, given)
    labels = [asked.label for asked in methods]
    found = [(label, config) for of_seed in configs for label, config in zip(labels, of_seed, strict=True)]
    own = rates or {}
    return [
        planned(
            label, f"{label} seed {config.run.seed}", at_rate(config, own[label]) if label in own else config, given
        )
        for label, config in found
    ], notes


def at_rate(config: Config, rate: float) -> Config:
    """Return a configuration with another learning rate."""
    return config.model_copy(update={"train": config.train.model_copy(update={"lr": rate})})


def configure(
    base: Config, methods: Sequence[AskedMethod], seeds: Sequence[int], out: Path, given: Objects = NAMED
) -> tuple[list[list[Config]], list[str]]:
    """Return, per seed, the configuration of every method, and notes; for the arguments see ``plan_runs``.

    Raises:
        ConfigError: If a configuration is wrong or a method is there twice.
    """
    _check_speeds(base)
    tiers, translated = _suited_tiers(base, methods, given)
    notes = [*_unused_options(base, methods), *translated]
    configs = [[_config(base, asked, tiers[asked.label], seed, out) for asked in methods] for seed in seeds]
    _check_distinct([asked.label for asked in methods], [config.method for config in configs[0]])
    return configs, notes


def _check_speeds(base: Config) -> None:
    unknown = [g for g, tier in enumerate(base.clients.tiers) if tier.seconds is not None and tier.speed is None]
    if unknown:
        raise ConfigError(
            f"expected a speed with clients.tiers.{unknown[0]}.seconds, such as 40GFLOP/s, since a speed measured "
            "in each run would give the methods different budgets; found none. fedhello plan shows this machine's."
        )


def _unused_options(base: Config, methods: Sequence[AskedMethod]) -> list[str]:
    """Return notes on options of the configuration that no compared method uses."""
    section = base.method
    plain = parse_config({"method": {"name": section.name}, "parity": base.parity, "clients": STAND_IN}).method
    changed = [key for key, value in section.options.items() if plain.options[key] != value]
    if not changed or any(asked.name == section.name for asked in methods):
        return []
    return [
        f"the configuration's {', '.join(f'method.{key}' for key in changed)} is of {section.name}, not compared here"
    ]


def _suited_tiers(
    base: Config, methods: Sequence[AskedMethod], given: Objects
) -> tuple[dict[str, list[TierConfig]], list[str]]:
    """Return the tiers translated for each method, by label, and a note on every translation."""
    stated = base.clients.tiers
    kinds = {asked.label: KINDS[METHODS[asked.name].allocates] for asked in methods}
    full: dict[Kind, int] = {}
    if any(_foreign(stated, kind) for kind in kinds.values()):
        full = {"blocks": _block_count(base, given), "rank": base.model.lora.rank}
        _check_counts(base, full["blocks"])
    suited = {label: [_suited(tier, kind, full) for tier in stated] for label, kind in kinds.items()}
    notes = [
        _translation(label, kind, foreign, stated, suited[label], full)
        for label, kind in kinds.items()
        if kind is not None and (foreign := _foreign(stated, kind))
    ]
    return suited, notes


def _check_counts(base: Config, blocks: int) -> None:
    """Check the blocks of tiers before they are translated; ranks are checked with the configuration."""
    for g, tier in enumerate(base.clients.tiers):
        if tier.blocks is not None and tier.blocks > blocks:
            raise ConfigError(
                f"expected clients.tiers.{g}.blocks to be at most {blocks}, the blocks of {base.model.name}; "
                f"found {tier.blocks}"
            )


def _foreign(tiers: Sequence[TierConfig], kind: Kind | None) -> list[int]:
    """Return the tiers whose only count is of the kind that the method does not allocate."""
    return [g for g, tier in enumerate(tiers) if _foreign_count(tier, kind) is not None]


def _foreign_count(tier: TierConfig, kind: Kind | None) -> int | None:
    """Return the count of a tier that the method does not allocate, where it states that one alone."""
    counts: dict[Kind, int | None] = {"blocks": tier.blocks, "rank": tier.rank}
    return None if kind is None or counts[kind] is not None else counts[OTHER[kind]]


def _suited(tier: TierConfig, kind: Kind | None, full: Mapping[Kind, int]) -> TierConfig:
    count = _foreign_count(tier, kind)
    if kind is None or count is None:
        return tier
    other = OTHER[kind]
    return tier.model_copy(update={other: None, kind: translated(count, full[other], full[kind])})


def _translation(
    label: str,
    kind: Kind,
    foreign: Sequence[int],
    stated: Sequence[TierConfig],
    suited: Sequence[TierConfig],
    full: Mapping[Kind, int],
) -> str:
    def listed(tiers: Sequence[TierConfig], key: Kind) -> str:
        counts = (tiers[g].blocks if key == "blocks" else tiers[g].rank for g in foreign)
        return "/".join(map(str, counts)) + f" of {full[key]}"

    return (
        f"{label} allocates {kind}, so tier {'/'.join(map(str, foreign))} gets {kind} {listed(suited, kind)} for "
        f"{OTHER[kind]} {listed(stated, OTHER[kind])}: about as many trained values"
    )


def translated(count: int, of: int, full: int) -> int:
    """Return the count of another kind that trains about as many values: the same share of the rank as of the blocks.

    Example:
        >>> translated(2, of=6, full=8)  # 2 of 6 blocks: rank 3 of 8
        3
    """
    return max(1, round(full * count / of))


def _block_count(base: Config, given: Objects) -> int:
    if given.model is not None:
        return find_blocks(given.model).count
    return load_model(model_settings(base), ["one", "other"]).blocks.count


def _config(base: Config, asked: AskedMethod, tiers: Sequence[TierConfig], seed: int, out: Path) -> Config:
    raw: ConfigMapping = base.model_dump(mode="json")
    shared = base.method.options if asked.name == base.method.name else {}
    raw["method"] = {"name": asked.name, **shared, **asked.options}
    raw["clients"]["tiers"] = [tier.model_dump(mode="json") for tier in tiers]
    raw["run"] |= {"seed": seed, "out": str(out / RUNS), "name": f"{asked.label}-seed{seed}"}
    return parse_config(raw)


def _check_distinct(labels: Sequence[str], methods: Sequence[MethodConfig]) -> None:
    for (one, method), (other, same) in combinations(zip(labels, methods, strict=True), 2):
        if method == same:
            raise ConfigError(f"expected every method once; {one} and {other} are the same with all options filled in")
        if one == other:
            raise ConfigError(f"expected methods with different folder names; two of them have {one}")


def planned(label: str, title: str, config: Config, given: Objects = NAMED) -> PlannedRun:
    """Return a planned run with the state of its folder.

    Raises:
        RunFolderError: If the folder contains a finished run of another configuration, or not a run.
    """
    folder = RunFolder(Path(config.run.out) / str(config.run.name))
    if not folder.path.exists():
        check_free(folder)
        return PlannedRun(label, title, config, folder, "new", given)
    if not (folder.path / "config.yaml").is_file():
        raise RunFolderError(f"expected a run or nothing at {folder.path}; found something else. Give another out.")
    if not (folder.path / "summary.json").is_file() or not folder.summary().ended:
        return PlannedRun(label, title, config, folder, "unfinished", given)
    try:
        found = stored_config(folder.path)
    except ConfigError as error:
        raise RunFolderError(f"expected a run of this version at {folder.path}; {error} Give another out.") from error
    differences = differing([found, as_loaded(config, found)], IRRELEVANT)
    if differences:
        said = "; ".join(f"{key} is {there!r} there and {here!r} here" for key, (there, here) in differences.items())
        raise RunFolderError(
            f"expected {folder.path} to be a run of this configuration; {said}. Give another out, or remove it."
        )
    if changes := folder.summary().changes:
        said = "; ".join(f"{change.key}={change.after:g} after round {change.round}" for change in changes)
        raise RunFolderError(
            f"expected {folder.path} to be a run of one configuration; it was resumed with {said}. Give another out, "
            "or remove it."
        )
    return PlannedRun(label, title, config, folder, "finished", given)


def make_runs(runs: Sequence[PlannedRun], console: Console, quiet: bool) -> bool:
    """Make the runs that are not finished yet, one after the other, and report each.

    Returns:
        Whether all have finished; False if the user interrupts one.

    Raises:
        FedhelloError: Of the kind that a run failed with, naming the run.
    """
    for i, run in enumerate(runs):
        place = f"run {i + 1} of {len(runs)}: {run.title}"
        summary = finished(run, place, console, quiet)
        if not summary.ended:
            line = f"{place} was interrupted; the same command keeps the {i} finished runs and starts it again"
        else:
            line = (
                f"{place}: {summary.metric} {summary.mean_last_5:.3f} (mean of the last 5 rounds) in "
                f"{summary.wall_seconds:.1f} s" + ", kept from before" * (run.before == "finished")
            )
        say(console, line, quiet)
        if not summary.ended:
            return False
    return True


def finished(run: PlannedRun, place: str, console: Console, quiet: bool) -> Summary:
    """Return the summary of a run; if it has not finished, it is made first.

    Raises:
        FedhelloError: Of the kind that it failed with, naming the run.
    """
    if run.before == "finished":
        return run.folder.summary()
    gc.collect()  # frees earlier models, which are in reference cycles
    if run.before == "unfinished":
        say(console, f"{place} had not finished and is started again", quiet)
    shown = console.is_terminal and not quiet
    with console.status(f"{place}: loading …") if shown else nullcontext() as status:
        try:
            session = prepare(run.config, _as_handed_over(run.given))
            if run.before == "unfinished":
                with run.folder.locked():  # another process may be running it
                    _remove(run.folder.path)
            log = Progress(None, run.folder)
            summary = run_session(session, run.folder, [log, PlanFile(run.folder), _Status(status, place)])
        except FedhelloError as error:
            raise type(error)(f"{run.title}: {error}") from error
        if summary.rounds:
            with suppress(MissingExtraError):  # reported once, for the comparison's own figures
                write_report(run.folder.path)
    return summary


def _as_handed_over(given: Objects) -> Objects:
    """Return copies of the objects that a run may change, so that each run starts from the same values."""
    return replace(given, model=copy.deepcopy(given.model))


def say(console: Console, line: str, quiet: bool) -> None:
    """Print a line without markup, unless quiet."""
    if not quiet:
        show(console, line, highlight=False, soft_wrap=True, markup=False)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise RunFolderError(f"expected to remove the unfinished run {folder}; {error.strerror or error}") from error


class _Status(Callback):
    """Shows the current round of a run on a terminal."""

    def __init__(self, status: Status | None, place: str) -> None:
        self._status = status
        self._place = place
        self._rounds = 0

    def on_start(self, session: Session, start: RunStart) -> None:
        """Keep the number of rounds."""
        self._rounds = session.settings.rounds

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Show the round."""
        if self._status is not None:
            scored = "" if record.test is None else f", test {record.test.accuracy:.3f}"
            self._status.update(f"{self._place}: round {record.report.round + 1} of {self._rounds}{scored}")

    def on_end(self, summary: Summary) -> None:
        """Show nothing, since the line of the finished run follows."""
