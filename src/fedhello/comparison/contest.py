"""A comparison before its results: check, tune and make its runs, under a lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fedhello.comparison import tuning
from fedhello.comparison.asked import AskedMethod
from fedhello.comparison.objects import check_data, check_same, store
from fedhello.comparison.runs import PlannedRun, configure, make_runs, plan_runs
from fedhello.config.schema import Config
from fedhello.results.compared import Tuning
from fedhello.runs.files import writing
from fedhello.runs.folder import RunFolder
from fedhello.setup.model import NAMED, Objects


@dataclass(frozen=True)
class Contest:
    """The runs to make for a comparison.

    Attributes:
        base: The configuration that all runs share.
        methods: The methods, including baselines, in the order of the tables.
        seeds: The seeds of each method; the first is that of the tuning runs.
        out: The folder of the comparison.
        rates: The grid of learning rates; empty if all methods use the configuration's.
        given: The model and the data, if these are objects; each run starts from their current values.
    """

    base: Config
    methods: Sequence[AskedMethod]
    seeds: Sequence[int]
    out: Path
    rates: Sequence[float] = ()
    given: Objects = NAMED

    def check(self) -> list[str]:
        """Check everything before training and writing; return notes for the user.

        Raises:
            ConfigError: If a configuration is wrong or a method is given twice.
            DataError: If finished runs in the folder were made with other data.
            RunFolderError: If the folder contains a finished run of another configuration or of other objects, or
                other files.
        """
        check_same(self.out, self.base, self.given)
        if not self.rates:
            runs, notes = plan_runs(self.base, self.methods, self.seeds, self.out, given=self.given)
            check_data(runs, self.base, self.given)
            return notes
        check_data(self._trials(), self.base, self.given)
        return configure(self.base, self.methods, self.seeds, self.out, self.given)[1]

    def make(self, console: Console, quiet: bool) -> tuple[list[PlannedRun], Tuning | None] | None:
        """Make all runs that are not finished yet, under a lock on the folder.

        Returns:
            The runs, all finished, and their tuning or None; None if the user interrupts a run.

        Raises:
            FedhelloError: The error of a run, with the run's name.
            RunFolderError: If another process makes a comparison in the folder.
        """
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        with RunFolder(self.out).locked():
            store(self.out, self.base, self.given)
            trials = self._trials()
            if not tuning.make_tuning(trials, console, quiet):
                return None
            tuned = tuning.read_tuning(trials) if trials else None
            rates = {} if tuned is None else {label: found.rate for label, found in tuned.methods.items()}
            runs, _ = plan_runs(self.base, self.methods, self.seeds, self.out, rates, self.given)
            if not make_runs(runs, console, quiet):
                return None
            return runs, tuned

    def _trials(self) -> list[PlannedRun]:
        tuned = tuning.tuned_methods(self.methods) if self.rates else []
        if not tuned:
            return []
        return tuning.plan_tuning(self.base, tuned, self.seeds[0], self.rates, self.out, self.given)
